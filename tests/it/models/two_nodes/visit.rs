//! A request whose handler hands its session to the test, and waits.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Request, Response, StatusCode, header};
use layered_session::{LayeredSessionLayer, Session, Sessions};
use tokio::sync::oneshot;
use tower::{Layer, ServiceExt, service_fn};

type Answering = Pin<Box<dyn Future<Output = Result<Response<()>, Infallible>> + Send>>;

/// A request under way. A drop of the visit is the end of the connection.
pub(crate) struct Visit {
    answering: Answering,
    loaded: oneshot::Receiver<Session>,
    finish: Option<oneshot::Sender<()>>,
}

impl Visit {
    pub(crate) fn begin(sessions: &Sessions, cookie: Option<&str>) -> Self {
        let (hand_out, loaded) = oneshot::channel();
        let (finish, finished) = oneshot::channel::<()>();
        let ends = Arc::new(Mutex::new(Some((hand_out, finished))));
        let handler = service_fn(move |request: Request<()>| {
            let (hand_out, finished) = ends.lock().unwrap().take().expect("one request, one call");
            async move {
                let Ok(session) = Session::load(request.extensions()).await else {
                    return Ok::<_, Infallible>(status(StatusCode::SERVICE_UNAVAILABLE));
                };
                let _ = hand_out.send(session);
                let _ = finished.await;
                Ok(status(StatusCode::OK))
            }
        });
        let mut request = Request::builder().uri("/").header(header::HOST, "app.example");
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, format!("session={cookie}"));
        }
        let service = LayeredSessionLayer::new(sessions.clone()).layer(handler);
        let answering = Box::pin(service.oneshot(request.body(()).expect("a request")));
        Self { answering, loaded, finish: Some(finish) }
    }

    /// Waits for the session of the request; `None` if the load fails.
    pub(crate) fn poll_loaded(&mut self, cx: &mut Context<'_>) -> Poll<Option<Session>> {
        match self.answering.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => self.loaded.try_recv().map_or(Poll::Pending, |session| Poll::Ready(Some(session))),
        }
    }

    /// Lets the handler answer.
    pub(crate) fn finish(&mut self) {
        drop(self.finish.take());
    }

    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<HeaderMap> {
        let Ok(response) = ready!(self.answering.as_mut().poll(cx));
        Poll::Ready(response.into_parts().0.headers)
    }
}

fn status(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}
