use mongodb::Client;

use crate::{block_on, parts, server, unique_name};

/// A database of MongoDB, dropped with this value.
#[derive(Debug)]
pub struct Database {
    server: String,
    name: String,
}

impl Database {
    /// On the server that this variable of the environment names.
    ///
    /// # Panics
    /// Without a server.
    pub fn on(variable: &str) -> Self {
        Self::at(server(variable))
    }

    /// On the server with this URL.
    pub fn at(server: String) -> Self {
        Database { server, name: unique_name() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let [scheme, user, hosts, _, query] = parts(&self.server);
        let glue = if query.is_empty() { "" } else { "?" };
        format!("{scheme}://{user}{hosts}/{}{glue}{query}", self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // Its panic has said what was left behind, on a server for tests.
        drop(block_on(move || async move {
            let client = Client::with_uri_str(&server).await.expect("a client");
            client.database(&name).drop().await.expect("a database that can be dropped");
        }));
    }
}
