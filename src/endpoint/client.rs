use std::error::Error as StdError;

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as Hyper, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::EndpointError;

/// What sends requests, each on a connection of its own.
#[derive(Clone)]
pub(super) enum Client {
    Plain(Hyper<HttpConnector, Full<Bytes>>),
    Tls(Hyper<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl Client {
    pub(super) fn plain() -> Self {
        let mut builder = Hyper::builder(TokioExecutor::new());
        Client::Plain(builder.pool_max_idle_per_host(0).build_http())
    }

    pub(super) fn tls() -> Result<Self, EndpointError> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let faults: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            return Err(EndpointError::Certificates(faults.join("; ")));
        }
        // The provider by name: the default of the process may be another one, or none.
        let config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| EndpointError::Certificates(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1();
        let mut builder = Hyper::builder(TokioExecutor::new());
        Ok(Client::Tls(builder.pool_max_idle_per_host(0).build(connector.build())))
    }

    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Box<dyn StdError + Send + Sync>> {
        Ok(match self {
            Client::Plain(client) => client.request(request).await?,
            Client::Tls(client) => client.request(request).await?,
        })
    }
}
