//! The servers under test, and databases of their own for every test.
#![allow(dead_code)] // each test file uses a part of it

use mongodb::Client;
use queue_core::{Clock, Error, ErrorKind, Result};
use queue_mongo::{MongoOptions, mongodb};

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
        std::env::var(variable).map_err(|_| {
            let message = format!(
                "{variable} is not set: run ./scripts/test, which starts the servers, or name a MongoDB there"
            );
            Error::new(ErrorKind::Config, message)
        })
    }

    /// A database with a random name.
    pub fn scratch(self) -> Result<Scratch> {
        let name = format!("queue_test_{}", queue_core::Uuid::now_v7().simple());
        Ok(Scratch { url: self.url()?, name })
    }
}

/// A database that is dropped with this value.
#[derive(Debug)]
pub struct Scratch {
    pub url: String,
    pub name: String,
}

impl Scratch {
    /// How to open it.
    pub fn options(&self, clock: &Clock) -> Result<MongoOptions> {
        Ok(MongoOptions::from_url(&self.url)?.database(&self.name).clock(clock.clone()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (url, name) = (self.url.clone(), self.name.clone());
        // On a thread of its own: a runtime may not be entered from within another.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| {
                runtime.block_on(async {
                    Client::with_uri_str(&url).await?.database(&name).drop().await
                })
            })
        });
        drop(dropping.join());
    }
}
