//! The inspector's page, with the scripts, styles and the icon, under every mount path.

use axum::Router;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use layered_session::{LayeredSessionLayer, SessionInspector};
use tower::ServiceExt;

use super::{ask, request};
use crate::support::{Answer, App, Browser};

/// The page's links reach the parts under every mount path.
#[tokio::test]
async fn page_links_work_under_any_mount() {
    let node = App::new().node;
    let sessions = || node.sessions.clone();
    let inspector = || SessionInspector::new(&node.sessions);
    let nested = Router::new().nest_service("/inspector", inspector());
    let deep = Router::new().nest("/debug", nested.clone());
    let routed = Router::new().route_service("/inspector", inspector().mount_path("/inspector"));
    let whole = Router::new().fallback_service(inspector().mount_path("/inspector/"));
    for (app, paths) in [
        (nested, &["/inspector", "/inspector/"][..]),
        (deep, &["/debug/inspector", "/debug/inspector/"]),
        (routed, &["/inspector"]),
        (whole, &["/inspector", "/inspector/"]),
    ] {
        let app = app.layer(LayeredSessionLayer::new(sessions()));
        let get = async |url: &str| {
            let request = Request::get(url).header("sec-fetch-site", "same-origin");
            app.clone().oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap()
        };
        for path in paths {
            let page = get(path).await;
            let kind = |response: &Response<axum::body::Body>| {
                assert_eq!(response.status(), StatusCode::OK, "{path}");
                response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned()
            };
            assert_eq!(kind(&page), "text/html; charset=utf-8");
            let html = page.into_body().collect().await.unwrap().to_bytes();
            let html = std::str::from_utf8(&html).unwrap();
            let base = url::Url::parse("http://app.example").unwrap().join(path).unwrap();
            let references = ["href=\"", "src=\""].map(|attribute| html.split(attribute).skip(1)).into_iter().flatten();
            let mut found = Vec::new();
            for reference in references.map(|rest| rest.split_once('"').unwrap().0).chain(["?events"]) {
                let url = base.join(reference).unwrap();
                found.push(kind(&get(&url[url::Position::BeforePath..]).await));
            }
            found.sort_unstable();
            found.dedup();
            let kinds =
                ["image/svg+xml", "text/css; charset=utf-8", "text/event-stream", "text/javascript; charset=utf-8"];
            assert_eq!(found, kinds);
        }
    }
}

#[tokio::test]
async fn page_parts_have_safe_headers() {
    let node = App::new().node;
    let browser = Browser::new();
    for path in ["/", "/?utm=1", "/page.js", "/page.css", "/icon.svg", "/?page.js"] {
        let answer = Answer::of(ask(&node, request(&browser, Method::GET, path)).await).await;
        assert_eq!(
            (answer.status, &answer.headers["x-content-type-options"]),
            (StatusCode::OK, &"nosniff".parse().unwrap())
        );
        assert!(answer.headers.get(header::VARY).is_none(), "the answer is the same for every visitor");
        let policy = answer.headers.get(header::CONTENT_SECURITY_POLICY).map(|policy| policy.to_str().unwrap());
        if answer.headers[header::CONTENT_TYPE] == "text/html; charset=utf-8" {
            let policy = policy.unwrap();
            assert!(policy.starts_with("default-src 'none'; ") && policy.contains("frame-ancestors 'none'"));
            assert!(!policy.contains("unsafe") && !policy.contains('*'));
        }
        let mut again = request(&browser, Method::GET, path);
        again.headers_mut().insert(header::IF_NONE_MATCH, answer.headers[header::ETAG].clone());
        let again = Answer::of(ask(&node, again).await).await;
        assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0));
        let head = Answer::of(ask(&node, request(&browser, Method::HEAD, path)).await).await;
        assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
        let post = Answer::of(ask(&node, request(&browser, Method::POST, path)).await).await;
        assert_eq!(
            (post.status, &post.headers[header::ALLOW]),
            (StatusCode::METHOD_NOT_ALLOWED, &"GET, HEAD".parse().unwrap())
        );
    }
    for path in ["/other", "/events/", "/page.html", "//"] {
        let answer = Answer::of(ask(&node, request(&browser, Method::GET, path)).await).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "not_found"), "{path}");
    }
}

/// The inspector reads no body, so a request may have a body of any type.
#[tokio::test]
async fn inspector_accepts_any_body() {
    let inspector = SessionInspector::new(&App::new().node.sessions);
    let response = inspector.oneshot(Request::get("/").body(std::rc::Rc::new(())).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}
