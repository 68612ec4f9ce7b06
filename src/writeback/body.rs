//! The reader of a request's body, with a limit of length and a deadline.

use std::{future::Future, task::Poll, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt;

use super::reply::Refusal;
use crate::{error::BoxError, time::Clock};

/// The most bytes of a body.
pub(super) const MAX_BODY: usize = 16 << 10;

/// The bytes beyond [`MAX_BODY`] that are read and dropped. A client that sends its whole body before it reads sees the
/// answer so.
const DRAIN: usize = 256 << 10;

/// The longest time that a body may take.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// Returns the whole body.
///
/// # Errors
///
/// For a body that is too long, breaks off, or takes longer than [`READ_DEADLINE`].
pub(super) async fn read<B>(clock: &dyn Clock, headers: &HeaderMap, body: B) -> Result<Bytes, Refusal>
where
    B: Body + Send,
    B::Error: Into<BoxError>,
{
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<usize>().ok());
    let announced = announced.unwrap_or(0);
    // A client that waits for 100 (RFC 9110, 10.1.1) reads the answer before it sends. A body longer than the drained
    // bytes is refused at once: no drain would reach its end.
    let waits =
        headers.get(header::EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if announced > MAX_BODY + DRAIN || announced > MAX_BODY && waits {
        return Err(too_large());
    }
    let mut deadline = clock.sleep(READ_DEADLINE);
    let mut read = std::pin::pin!(collect(body, announced));
    std::future::poll_fn(|cx| match read.as_mut().poll(cx) {
        Poll::Ready(read) => Poll::Ready(read),
        Poll::Pending => deadline.as_mut().poll(cx).map(|()| {
            let message = format!("the body took longer than {} s", READ_DEADLINE.as_secs());
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", message))
        }),
    })
    .await
}

/// Collects a body up to [`MAX_BODY`]. Of a longer body, reads and drops up to [`DRAIN`] further bytes.
async fn collect<B>(body: B, announced: usize) -> Result<Bytes, Refusal>
where
    B: Body + Send,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    let (mut stored, mut seen) = (BytesMut::new(), 0);
    let mut over = announced > MAX_BODY;
    while let Some(frame) = body.as_mut().frame().await {
        let frame = frame.map_err(|error| {
            tracing::debug!(error = error.into(), "the body of a POST to the writeback broke off");
            Refusal::new(StatusCode::BAD_REQUEST, "incomplete", "the body ended before it was whole")
        })?;
        let Ok(mut data) = frame.into_data() else { continue };
        let len = bytes::Buf::remaining(&data);
        seen += len;
        over |= seen > MAX_BODY;
        if seen > MAX_BODY + DRAIN {
            break;
        }
        if over {
            stored = BytesMut::new();
        } else {
            stored.extend_from_slice(&bytes::Buf::copy_to_bytes(&mut data, len));
        }
    }
    if over { Err(too_large()) } else { Ok(stored.freeze()) }
}

fn too_large() -> Refusal {
    let message = format!("the body is longer than {MAX_BODY} bytes");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
}
