//! Connections by TLS, with the feature `tls`; without it, an error that names it.

mod database;

use queue_core::ErrorKind;
use queue_postgres::PostgresStore;
use test_servers::Private;

#[cfg(not(feature = "tls"))]
#[tokio::test]
async fn a_build_without_tls_names_the_feature_that_it_would_take() {
    let url = database::url().unwrap();
    for mode in ["require", "verify-ca", "verify-full"] {
        let url = database::with_parameters(&url, &format!("sslmode={mode}"));
        let error = PostgresStore::connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        let text = error.to_string();
        assert!(text.contains("`tls`") && text.contains("`postgres-tls`"), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_refused_where_tls_is_required() {
    let servers = Private::beside(&["pgbouncer"]);
    let pooler = servers.get("QUEUE_PGBOUNCER_URL");
    let url = database::with_parameters(pooler, "pooler=transaction&sslmode=require");
    let error = PostgresStore::connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn connections_are_encrypted_and_certificates_verified_as_the_mode_says() {
    use queue_core::{JobStore, NewJob, Payload};
    use queue_postgres::sqlx::query_scalar;

    let servers = Private::start(&["postgres"]);
    let authority = servers.get("QUEUE_TLS_CA");
    let url = servers.get(database::VARIABLE);
    // The same address, by a name that is not in the certificate.
    let alias = url.replace("127.0.0.1", "0x7f000001");
    for (url, parameters, trusted) in [
        (url, "sslmode=require".to_owned(), true),
        (url, "sslmode=verify-ca".to_owned(), false),
        (url, "sslmode=verify-full".to_owned(), false),
        (url, format!("sslmode=verify-ca&sslrootcert={authority}"), true),
        (url, format!("sslmode=verify-full&sslrootcert={authority}"), true),
        (alias.as_str(), format!("sslmode=verify-ca&sslrootcert={authority}"), true),
        (alias.as_str(), format!("sslmode=verify-full&sslrootcert={authority}"), false),
    ] {
        let opened = PostgresStore::connect(&database::with_parameters(url, &parameters)).await;
        match (opened, trusted) {
            (Ok(store), true) => {
                store.insert(&[NewJob::new("x", Payload::null())]).await.unwrap();
                let ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
                let encrypted: bool = query_scalar(ssl).fetch_one(store.pool()).await.unwrap();
                assert!(encrypted, "{parameters}");
            }
            (Err(error), false) => {
                assert_eq!(error.kind(), ErrorKind::Config, "{parameters}: {error}");
                assert!(error.to_string().contains("certificate"), "{parameters}: {error}");
            }
            (opened, _) => panic!("{parameters}: {opened:?}"),
        }
    }
}
