//! The servers under test, and databases of their own for every test.
#![allow(dead_code)] // each test file uses a part of it

use queue_core::{Clock, Error, ErrorKind, Result};
use queue_mongo::MongoOptions;
use test_servers::Database;

/// Which deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    ReplicaSet,
    Standalone,
}

impl Server {
    /// Its URL.
    pub fn url(self) -> Result<String> {
        let variable = match self {
            Server::ReplicaSet => "QUEUE_MONGO_URL",
            Server::Standalone => "QUEUE_MONGO_STANDALONE_URL",
        };
        test_servers::find(variable).map_err(|missing| Error::new(ErrorKind::Config, missing))
    }

    /// A database with a random name.
    pub fn scratch(self) -> Result<Scratch> {
        Ok(Scratch::at(self.url()?))
    }
}

/// A database that is dropped with this value.
#[derive(Debug)]
pub struct Scratch {
    pub url: String,
    pub name: String,
    _database: Database,
}

impl Scratch {
    /// On the server with this URL.
    pub fn at(url: String) -> Scratch {
        let database = Database::at(url.clone());
        Scratch { url, name: database.name().to_owned(), _database: database }
    }

    /// How to open it.
    pub fn options(&self, clock: &Clock) -> Result<MongoOptions> {
        Ok(MongoOptions::from_url(&self.url)?.database(&self.name).clock(clock.clone()))
    }

    /// How to open it with a further parameter in the URL.
    pub fn options_with(&self, parameter: &str, clock: &Clock) -> Result<MongoOptions> {
        let mark = if self.url.contains('?') { '&' } else { '?' };
        let url = format!("{}{mark}{parameter}", self.url);
        Ok(MongoOptions::from_url(&url)?.database(&self.name).clock(clock.clone()))
    }
}
