//! The `h2` crate as an independent client: what it sends we understand, what we send it accepts.

use super::*;
use crate::grpc::{Deframer, prefix};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Echoes every message on the channel's path, refuses other paths, ends the stream when the peer ends its half.
async fn serve(mut socket: DuplexStream, announced: Settings) -> ServerConnection {
    let mut out = Vec::new();
    let mut connection = ServerConnection::new(announced, &mut out);
    let mut deframer = Deframer::new();
    let mut echoes: Vec<u8> = Vec::new();
    let mut accepted = None;
    let mut is_ended = false;
    let mut buffer = vec![0; 7_000];
    loop {
        while let Some(stream) = accepted
            && !echoes.is_empty()
            && connection.send_window() > 0
        {
            let bytes = echoes
                .len()
                .min(connection.send_window())
                .min(connection.peer_max_frame_bytes());
            out.extend_from_slice(&data_frame_header(bytes, stream, false));
            out.extend(echoes.drain(..bytes));
            connection.consume_send_window(bytes);
        }
        if is_ended
            && echoes.is_empty()
            && let Some(stream) = accepted.take()
        {
            connection.trailers(stream, 0, "done: 100 %", &mut out);
        }
        if socket.write_all(&std::mem::take(&mut out)).await.is_err() {
            return connection;
        }
        let read = socket.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            return connection;
        }
        let mut input = &buffer[..read];
        while let Some(event) = connection
            .next_event(&mut input, &mut out)
            .expect("h2 sends valid HTTP/2")
        {
            match event {
                Event::Request(head) if head.path == PATH => {
                    assert!(connection.accept(head.stream));
                    connection.respond_headers(head.stream, &mut out);
                    accepted = Some(head.stream);
                }
                Event::Request(head) => {
                    connection.respond_trailers_only(head.stream, 12, "no such method", &mut out)
                }
                Event::Data {
                    mut bytes,
                    flow_bytes,
                    end_stream,
                    ..
                } => {
                    while let Some(message) =
                        deframer.next_message(&mut bytes).expect("valid framing")
                    {
                        echoes.extend_from_slice(&prefix(message.as_ref().len()));
                        echoes.extend_from_slice(message.as_ref());
                    }
                    connection.release(flow_bytes, &mut out);
                    is_ended |= end_stream;
                }
                _ => {}
            }
        }
    }
}

fn http_request(path: &str) -> http::Request<()> {
    http::Request::post(format!("http://localhost{path}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header(
            "authorization",
            "Bearer some.long.token-of_many/characters+and=signs~0123456789",
        )
        .body(())
        .unwrap()
}

async fn converse(announced: Settings, message_bytes: &[usize]) {
    let (near, far) = tokio::io::duplex(4_096);
    let server = tokio::spawn(serve(far, announced));
    let (client, connection) = h2::client::handshake(near).await.unwrap();
    let driver = tokio::spawn(connection);

    let mut client = client.ready().await.unwrap();
    let (refused, _) = client
        .send_request(http_request("/no.such/Method"), true)
        .unwrap();
    let refused = refused.await.unwrap();
    assert_eq!(refused.headers()["grpc-status"], "12");
    assert_eq!(refused.headers()["grpc-message"], "no such method");

    let mut client = client.ready().await.unwrap();
    let (response, mut sender) = client.send_request(http_request(PATH), false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let mut receiver = response.into_body();

    let sent: Vec<u8> = message_bytes
        .iter()
        .enumerate()
        .flat_map(|(nth, bytes)| [&prefix(*bytes)[..], &vec![nth as u8; *bytes]].concat())
        .collect();
    let to_send = Bytes::from(sent.clone());
    let sending = tokio::spawn(async move { sender.send_data(to_send, true).map(|()| sender) });
    let mut received = Vec::new();
    while let Some(chunk) = receiver.data().await {
        let chunk = chunk.unwrap();
        receiver
            .flow_control()
            .release_capacity(chunk.len())
            .unwrap();
        received.extend_from_slice(&chunk);
    }
    assert!(
        received == sent,
        "{} of {} bytes came back",
        received.len(),
        sent.len()
    );
    let trailers = receiver.trailers().await.unwrap().expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["grpc-message"], "done: 100 %25");
    let _ = sending.await.unwrap();
    drop((client, receiver, refused));
    driver.await.unwrap().unwrap();
    assert!(server.await.unwrap().is_established());
}

#[tokio::test]
async fn an_h2_client_gets_back_what_it_sends() {
    converse(ANNOUNCED, &[0, 1, 200, 16_384, 100_000, 1_000_000, 3]).await;
}

#[tokio::test]
async fn an_h2_client_manages_with_a_window_of_a_thousand_bytes() {
    converse(
        Settings {
            initial_window_bytes: 1_000,
            ..ANNOUNCED
        },
        &[500, 20_000, 7],
    )
    .await;
}
