//! Scenes on the database servers that the environment names.

use std::sync::Arc;

use queue::JobStore;

use super::Scene;

#[cfg(feature = "postgres")]
impl Scene {
    pub async fn postgres() -> Self {
        use queue::postgres::PostgresStore;
        let role = Arc::new(test_servers::Role::new());
        let open = |url: String| async move {
            Ok(Arc::new(PostgresStore::connect(&url).await?) as Arc<dyn JobStore>)
        };
        let mut scene = Self::at("postgres", role.url(), open, role.clone()).await;
        scene.statements = Some(Box::new(move || Box::pin(role.statements())));
        scene
    }
}

#[cfg(feature = "mongo")]
impl Scene {
    /// On a replica set.
    pub async fn mongo() -> Self {
        Self::mongo_at("QUEUE_MONGO_URL").await
    }

    /// On a single server without a log of its writes, where nobody is woken.
    pub async fn mongo_standalone() -> Self {
        Self::mongo_at("QUEUE_MONGO_STANDALONE_URL").await
    }

    async fn mongo_at(variable: &str) -> Self {
        use queue::mongo::MongoStore;
        let database = test_servers::Database::on(variable);
        let opened = Arc::new(std::sync::Mutex::new(None::<MongoStore>));
        let keep = opened.clone();
        let open = move |url: String| {
            let keep = keep.clone();
            async move {
                let store = MongoStore::connect(&url).await?;
                *keep.lock().unwrap() = Some(store.clone());
                Ok(Arc::new(store) as Arc<dyn JobStore>)
            }
        };
        let mut scene = Self::at("mongodb", database.url(), open, database).await;
        scene.budget = 4;
        scene.statements = Some(Box::new(move || {
            let count = opened.lock().unwrap().as_ref().unwrap().commands();
            Box::pin(async move { count })
        }));
        scene
    }
}
