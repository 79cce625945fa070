//! The JSON schema of the config, for editors; `config/moorline.schema.json` is this, printed.

use super::Config;

/// The schema (JSON Schema draft 2020-12).
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Config).to_value()
}
