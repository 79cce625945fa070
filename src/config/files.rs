//! Whether the files and variables that a config names are there and can be read.
//!
//! What is in them is checked by who uses it; only reading is tried here, so that `check` and `serve`
//! tell every missing file at once.

use std::{fs, path::Path};

use super::{Backend, Config, Problem, SecretSource, Tls};

impl Config {
    /// Tries each file and variable that the config names. Relative paths start at the working
    /// directory. Empty when all can be read.
    #[must_use]
    pub fn check_files(&self) -> Vec<Problem> {
        let mut files = Files::default();
        if let Some(public) = &self.listeners.public {
            files.tls("listeners.public.tls", &public.tls);
        }
        if let Some(management) = &self.listeners.management {
            if let Some(tls) = &management.tls {
                files.tls("listeners.management.tls", tls);
            }
            for (i, key) in management.key_files.iter().enumerate() {
                files.secret(&format!("listeners.management.key_files[{i}]"), Some(key));
            }
        }
        if let Some(nats) = &self.nats {
            files.secret("nats.password", nats.password.as_ref());
            files.secret("nats.token", nats.token.as_ref());
            files.file("nats.credentials", nats.credentials.as_ref());
            files.secret("nats.nkey", nats.nkey.as_ref());
            if let Some(tls) = &nats.tls {
                files.file("nats.tls.ca", tls.ca.as_ref());
                files.file("nats.tls.certificate", tls.certificate.as_ref());
                files.file("nats.tls.key", tls.key.as_ref());
            }
        }
        if let Some(jwt) = &self.jwt {
            for (i, key) in jwt.keys.iter().enumerate() {
                files.secret(&format!("jwt.keys[{i}].secret"), key.secret.as_ref());
                files.file(&format!("jwt.keys[{i}].public_key"), key.public_key.as_ref());
            }
            if let Some(jwks) = &jwt.jwks {
                let file = (!jwks.is_url()).then_some(&jwks.location);
                files.file("jwt.jwks.location", file);
                files.file("jwt.jwks.ca", jwks.ca.as_ref());
            }
        }
        let of_routes = self.routes.iter().enumerate();
        let of_routes =
            of_routes.map(|(i, route)| (format!("routes[{i}].backend"), &route.backend));
        let of_bridge = self.bridge.iter().map(|bridge| ("bridge.backend".into(), &bridge.backend));
        for (at, backend) in of_routes.chain(of_bridge) {
            if let Backend::Http(backend) = backend {
                files.secret(&format!("{at}.secret_file"), backend.secret_file.as_ref());
                files.file(&format!("{at}.ca"), backend.ca.as_ref());
                let grip = backend.grip.as_ref().map(|grip| &grip.key_file);
                files.secret(&format!("{at}.grip.key_file"), grip);
            }
        }
        if let Some(upstream) = &self.upstream {
            files.file("upstream.ca", upstream.ca.as_ref());
        }
        files.0
    }
}

#[derive(Default)]
struct Files(Vec<Problem>);

impl Files {
    fn file(&mut self, key: &str, path: Option<impl AsRef<Path>>) {
        let Some(path) = path else { return };
        let path = path.as_ref();
        let problem = match fs::metadata(path) {
            Ok(found) if found.is_dir() => Some("it is a directory".to_owned()),
            // To open a pipe would wait for its writer.
            Ok(found) if !found.is_file() => None,
            Ok(_) => fs::File::open(path).err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            let message = format!("cannot read the file `{}`: {problem}", path.display());
            self.0.push(Problem::new(key, &message));
        }
    }

    fn tls(&mut self, at: &str, tls: &Tls) {
        self.file(&format!("{at}.certificate"), Some(&tls.certificate));
        self.file(&format!("{at}.key"), Some(&tls.key));
        for (i, more) in tls.additional.iter().enumerate() {
            self.file(&format!("{at}.additional[{i}].certificate"), Some(&more.certificate));
            self.file(&format!("{at}.additional[{i}].key"), Some(&more.key));
        }
        self.file(&format!("{at}.client_ca"), tls.client_ca.as_ref());
    }

    fn secret(&mut self, key: &str, source: Option<&SecretSource>) {
        match source {
            Some(SecretSource::File(path)) => self.file(key, Some(path)),
            Some(SecretSource::Environment(name)) if std::env::var_os(name).is_none() => {
                let message = format!("the environment variable `{name}` is not set");
                self.0.push(Problem::new(key, &message));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Format;

    #[test]
    fn every_missing_file_is_named_with_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("there.pem");
        fs::write(&there, "x").unwrap();
        let (there, folder) = (there.display(), folder.path().display());
        let text = format!(
            "listeners: {{public: {{address: '127.0.0.1:0', tls: {{certificate: '{there}', key: \
             '{folder}'}}}}}}\n\
             nats: {{user: u, password: 'env:MOORLINE_TEST_NOT_SET'}}\n\
             jwt:\n  keys: [{{algorithms: [HS256], secret: '{folder}/gone'}}]\n  \
             jwks: {{location: 'https://id.example/jwks', ca: '{folder}/ca'}}\n\
             routes: [{{path: /ws, auth: jwt}}]\n"
        );
        let config = Config::parse(&text, Format::Yaml, "test", std::iter::empty()).unwrap();
        let said: Vec<_> = config.check_files().iter().map(ToString::to_string).collect();
        let gone =
            |file| format!("cannot read the file `{folder}/{file}`: No such file or directory");
        assert_eq!(said.len(), 4, "{said:#?}");
        assert!(said[0].ends_with("it is a directory"), "{said:#?}");
        assert!(said[0].starts_with("listeners.public.tls.key: "), "{said:#?}");
        assert_eq!(
            said[1],
            "nats.password: the environment variable `MOORLINE_TEST_NOT_SET` is not set"
        );
        assert!(said[2].starts_with(&format!("jwt.keys[0].secret: {}", gone("gone"))), "{said:#?}");
        assert!(said[3].starts_with(&format!("jwt.jwks.ca: {}", gone("ca"))), "{said:#?}");
    }
}
