//! Proofs that the engine survives what happens to its workers: killed processes, stopped processes, and handlers that panic
//! and fail by the thousand. What happens to its store is among the scenarios.
//!
//! Each has a short form, which runs with all tests, and a full one, which runs when it is asked for:
//! `cargo test -p queue --all-features --test faults -- --ignored --nocapture --test-threads=1`. The full ones print what they
//! found; variables of the environment change their numbers, see [`size`].
#![cfg(target_os = "linux")]

#[allow(dead_code, unused_imports, reason = "the scenarios use the rest of it")]
#[path = "../scenarios/scene/mod.rs"]
mod scene;

/// Declares a proof on each database: in its short form, and in its full form, which runs when it is asked for.
macro_rules! proofs {
    ($($name:ident),* $(,)?) => {
        #[cfg(feature = "sqlite")]
        mod sqlite { proof!(sqlite: $($name),*); }
        #[cfg(feature = "postgres")]
        mod postgres { proof!(postgres: $($name),*); }
        #[cfg(feature = "mongo")]
        mod mongo { proof!(mongo: $($name),*); }
        #[cfg(feature = "mongo")]
        mod mongo_standalone { proof!(mongo_standalone: $($name),*); }
    };
}

macro_rules! proof {
    ($store:ident: $($name:ident),*) => {
        mod short {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let scene = $crate::scene::Scene::$store(queue::Clock::system()).await;
                    super::super::$name(scene, $crate::size::Size::Short).await;
                }
            )*
        }
        mod full {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                #[ignore = "takes minutes"]
                async fn $name() {
                    let scene = $crate::scene::Scene::$store(queue::Clock::system()).await;
                    super::super::$name(scene, $crate::size::Size::Full).await;
                }
            )*
        }
    };
}

mod failures;
mod kills;
mod ledger;
mod process;
mod size;
mod stops;
