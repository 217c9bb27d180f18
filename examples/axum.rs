//! A web application that enqueues jobs and shows them, with its worker in the same process.
//!
//! `cargo run --example axum`, then
//! `curl -d '{"to":"ada@example.com"}' -H 'content-type: application/json' http://127.0.0.1:3000/emails` and
//! `curl http://127.0.0.1:3000/jobs/ID`. Ctrl-C stops both, and running jobs may finish. With the argument `once` it listens
//! on a free port, answers one request of its own and stops.

#![allow(clippy::print_stdout)] // that is what it is for

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use queue::{JobId, Queue, Task, TaskResult, Worker};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

#[derive(Serialize, Deserialize, Task)]
#[task(name = "send-email", output = String, retries = 3)]
struct SendEmail {
    to: String,
}

#[derive(Serialize)]
struct Accepted {
    id: JobId,
}

/// 202: the job is stored, and nothing more is promised.
async fn enqueue(
    State(queue): State<Queue>,
    Json(email): Json<SendEmail>,
) -> Result<(StatusCode, Json<Accepted>), (StatusCode, String)> {
    let job = queue.enqueue(email).await.map_err(|error| match error.is_transient() {
        true => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        false => (StatusCode::BAD_REQUEST, error.to_string()),
    })?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { id: job.id() })))
}

async fn show(
    State(queue): State<Queue>,
    Path(id): Path<JobId>,
) -> Result<Json<serde_json::Value>, StatusCode> {
    let job = queue.job(id).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let job = job.ok_or(StatusCode::NOT_FOUND)?;
    Ok(Json(serde_json::json!({
        "id": job.id,
        "state": job.state,
        "attempt": job.attempt,
        "output": job.output,
    })))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let once = std::env::args().nth(1).is_some_and(|argument| argument == "once");
    let queue = Queue::connect("memory:").await?;
    let worker = Worker::new(queue.clone())
        .task(|email: SendEmail| async move { TaskResult::Ok(format!("sent to {}", email.to)) })
        .build()?;
    let application = Router::new()
        .route("/emails", post(enqueue))
        .route("/jobs/{id}", get(show))
        .with_state(queue);

    let listener = TcpListener::bind(if once { "127.0.0.1:0" } else { "127.0.0.1:3000" }).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}");
    let (stop, served) = (CancellationToken::new(), CancellationToken::new());
    let serve =
        axum::serve(listener, application).with_graceful_shutdown(stop.clone().cancelled_owned());
    // The worker stops after the server: what was accepted last may still run.
    let serve = async {
        let ended = serve.await;
        served.cancel();
        ended
    };
    let stopping = async {
        match once {
            true => println!("{}", request(address).await?),
            false => tokio::signal::ctrl_c().await?,
        }
        stop.cancel();
        Ok::<_, std::io::Error>(())
    };
    let (ended, worked, stopped) =
        tokio::join!(serve, worker.run_until(served.cancelled()), stopping);
    ended?;
    worked?;
    stopped?;
    Ok(())
}

/// What `curl` would do.
async fn request(address: std::net::SocketAddr) -> std::io::Result<String> {
    let body = r#"{"to":"ada@example.com"}"#;
    let request = format!(
        "POST /emails HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    match answer.starts_with("HTTP/1.1 202") {
        true => Ok(answer),
        false => Err(std::io::Error::other(format!("unexpected answer: {answer}"))),
    }
}
