//! Scenes on the database servers that the environment names.

use std::sync::Arc;

use queue::{Clock, JobStore};

use super::Scene;

#[cfg(feature = "postgres")]
impl Scene {
    pub async fn postgres(clock: Clock) -> Self {
        use queue::postgres::PostgresOptions;
        let role = Arc::new(test_servers::Role::new());
        let url = test_servers::without_tls(&role.url());
        let now = clock.clone();
        let open = move |url: String| {
            let now = now.clone();
            async move {
                let options = PostgresOptions::from_url(&url)?.clock(now);
                Ok(Arc::new(options.open().await?) as Arc<dyn JobStore>)
            }
        };
        let mut scene = Self::at("postgres", url, clock, open, role.clone()).await;
        scene.statements = Some(Box::new(move || Box::pin(role.statements())));
        scene
    }
}

#[cfg(feature = "mongo")]
impl Scene {
    /// On a replica set.
    pub async fn mongo(clock: Clock) -> Self {
        Self::mongo_at("QUEUE_MONGO_URL", clock).await
    }

    /// On a single server without a log of its writes, where nobody is woken.
    pub async fn mongo_standalone(clock: Clock) -> Self {
        Self::mongo_at("QUEUE_MONGO_STANDALONE_URL", clock).await
    }

    async fn mongo_at(variable: &str, clock: Clock) -> Self {
        use queue::mongo::{MongoOptions, MongoStore};
        let database = test_servers::Database::on(variable);
        let opened = Arc::new(std::sync::Mutex::new(None::<MongoStore>));
        let (keep, now) = (opened.clone(), clock.clone());
        let open = move |url: String| {
            let (keep, now) = (keep.clone(), now.clone());
            async move {
                let store = MongoOptions::from_url(&url)?.clock(now).open().await?;
                *keep.lock().unwrap() = Some(store.clone());
                Ok(Arc::new(store) as Arc<dyn JobStore>)
            }
        };
        let mut scene = Self::at("mongodb", database.url(), clock, open, database).await;
        scene.budget = 4;
        scene.statements = Some(Box::new(move || {
            let count = opened.lock().unwrap().as_ref().unwrap().commands();
            Box::pin(async move { count })
        }));
        scene
    }
}
