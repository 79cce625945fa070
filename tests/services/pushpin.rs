//! Pushpin as its package has it, but for a place of its own and a log of warnings alone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Writes into `folder` what Pushpin needs to stand at `front` before `backend`, a host and port, and to
/// take pushes at the port `control`; the path of its config.
pub(crate) fn configure(
    folder: &Path,
    backend: &str,
    front: SocketAddr,
    control: u16,
    issuer: &str,
    key: &str,
) -> std::io::Result<PathBuf> {
    let config = include_str!("pushpin.conf")
        .replace("@place@", &folder.display().to_string())
        .replace("@front@", &front.to_string())
        .replace("@control@", &control.to_string())
        .replace("@issuer@", issuer)
        .replace("@key@", key);
    std::fs::create_dir_all(folder.join("run"))?;
    std::fs::write(folder.join("routes"), format!("* {backend},over_http\n"))?;
    let path = folder.join("pushpin.conf");
    std::fs::write(&path, config)?;
    Ok(path)
}
