//! The requests that the writeback answers: by method, origin, type and path, and the reason for each refusal.

use axum::Router;
use bytes::Bytes;
use http::{Method, Request, StatusCode, Version, header};
use http_body_util::Full;
use layered_session::{LayeredSessionLayer, SessionWriteback};
use tower::{Layer, ServiceExt};
use tower_http::cors::CorsLayer;

use super::{KIB, Page, allowing, assert_refused, send_bare};
use crate::support::Trace;

// R24: every method except POST is answered with 405, and stores nothing.
#[tokio::test]
async fn only_post_writes() {
    let page = Page::new();
    for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"] {
        let mut request = page.browser.post_json(r#"{"theme":"dark"}"#);
        *request.method_mut() = method.parse().unwrap();
        let answer = page.send(request).await;
        assert_refused(&answer, 405, "method_not_allowed", method);
        assert_eq!(answer.headers[header::ALLOW], "POST");
    }
    assert_eq!(page.node.sessions.stats().records, 0);
}

// R24: only pages of the same origin or of a listed origin write, for all combinations of `Sec-Fetch-Site`, `Origin`
// and `Host`.
#[tokio::test]
async fn only_same_origin_pages_write() {
    const HOST: &str = "app.example";
    let page = Page::new();
    let sites: [(&[&str], Option<bool>); 8] = [
        (&[], None),
        (&["same-origin"], Some(true)),
        (&["same-site"], Some(false)),
        (&["cross-site"], Some(false)),
        (&["none"], Some(false)),
        (&["Same-Origin"], Some(false)),
        (&[""], Some(false)),
        (&["same-origin", "cross-site"], Some(false)),
    ];
    // The `Origin` header, whether the origin is ours at `Host: app.example`, and whether a list makes the origin ours
    // behind a proxy that rewrites `Host` too.
    let origins: [(&[&str], bool, bool); 11] = [
        (&[], false, false),
        (&["https://app.example"], true, false),
        (&["http://app.example"], true, false),
        (&["https://app.example:8443"], false, false),
        (&["https://evil.example"], false, false),
        (&["https://app.example.evil.example"], false, false),
        (&["https://public.example"], true, true),
        (&["http://public.example"], false, false),
        (&["null"], false, false),
        (&["https://app.example", "https://app.example"], false, false),
        (&["https://app.example/"], false, false),
    ];
    let places = [
        ("host", "/", Some(HOST), Version::HTTP_11),
        ("http/2 without a host", "https://app.example/", None, Version::HTTP_2),
        ("rewritten host", "/", Some("10.0.0.7:3000"), Version::HTTP_11),
        ("no host", "/", None, Version::HTTP_10),
    ];
    for (site, decided) in sites {
        for (origin, ours, listed) in origins {
            for (place, uri, host, version) in places {
                let mut request = Request::post(uri).version(version).header(header::CONTENT_TYPE, "application/json");
                for (name, values) in [("sec-fetch-site", site), ("origin", origin), ("host", host.as_slice())] {
                    request = values.iter().fold(request, |request, value| request.header(name, *value));
                }
                let request = request.body(Full::<Bytes>::from(r#"{"theme":"dark"}"#)).unwrap();
                let answer = page.send(request).await;
                let addressed = matches!(place, "host" | "http/2 without a host");
                let passes = listed || decided.unwrap_or(addressed && ours);
                let why = (site, origin, place);
                match passes {
                    // The browser may have withheld a cookie.
                    true if site.contains(&"cross-site") => assert_refused(&answer, 409, "session_closed", why),
                    true => assert_eq!(answer.status.as_u16(), 200, "{why:?}"),
                    false => assert_refused(&answer, 403, "cross_site", why),
                }
                let cors = |name: &header::HeaderName| name.as_str().starts_with("access-control-");
                assert!(!answer.headers.keys().any(cors), "{why:?}");
            }
        }
    }
}

// R24: the answer and the trace of a cross-site refusal name the remedy.
#[tokio::test]
async fn cross_site_refusal_names_remedy() {
    let (trace, _guard) = Trace::begin();
    let page = Page::new();
    for (method, path, headers, remedy) in [
        (Method::POST, "/", [("sec-fetch-site", "same-site")].as_slice(), "`public_origins`"),
        (Method::POST, "/", &[("host", "10.0.0.7"), ("origin", "https://app.example")], "let the proxy pass `Host` on"),
        (Method::POST, "/", &[("origin", "null")], "`Referrer-Policy"),
        (Method::POST, "/", &[], "let the proxy pass `Origin` on"),
        (Method::GET, "/events", &[], "`Accept: text/event-stream`"),
        (Method::GET, "/events", &[("sec-fetch-site", "none")], "the address bar"),
    ] {
        let mut request = page.browser.post_json("{}");
        (*request.method_mut(), *request.uri_mut()) = (method, path.parse().unwrap());
        request.headers_mut().remove("sec-fetch-site");
        headers.iter().for_each(|(name, value)| drop(request.headers_mut().insert(*name, value.parse().unwrap())));
        let answer = page.send(request).await;
        assert_refused(&answer, 403, "cross_site", remedy);
        assert!(answer.json()["message"].as_str().unwrap().contains(remedy), "{remedy}: {:?}", answer.body);
        assert!(trace.lines_with(remedy) >= 1, "{remedy}");
    }
    assert_eq!(trace.lines_with("refused as cross-site"), 5, "two requests share a reason");
}

// R24: behind a CORS layer a page of a listed origin can post, and both responses have the layer's headers.
#[tokio::test]
async fn writeback_works_behind_cors_layer() {
    let page = Page::new();
    let cors = CorsLayer::new().allow_origin(["https://public.example".parse().unwrap()]).allow_credentials(true);
    let service = cors.allow_methods([Method::POST]).layer(allowing(&page.node.sessions));
    let service = LayeredSessionLayer::new(page.node.sessions.clone()).layer(service);
    let mut request = page.browser.post_json(r#"{"theme":"dark"}"#);
    request.headers_mut().insert("sec-fetch-site", "same-site".parse().unwrap());
    request.headers_mut().insert(header::ORIGIN, "https://public.example".parse().unwrap());
    let mut preflight = request.clone();
    *preflight.method_mut() = Method::OPTIONS;
    for request in [preflight, request] {
        let answer = service.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://public.example");
    }
}

// R25: a POST with another content type than `application/json` is answered with 415.
#[tokio::test]
async fn only_json_is_accepted() {
    let page = Page::new();
    for (types, taken) in [
        (&["application/json"][..], true),
        (&["Application/JSON"], true),
        (&["application/json; charset=utf-8"], true),
        (&[" application/json ;charset=x"], true),
        (&[], false),
        (&[""], false),
        (&["text/plain"], false),
        (&["text/plain; application/json"], false),
        (&["application/x-www-form-urlencoded"], false),
        (&["multipart/form-data"], false),
        (&["application/jsonp"], false),
        (&["application/json, text/plain"], false),
        (&["application/merge-patch+json"], false),
        (&["text/json"], false),
        (&["application/json", "application/json"], false),
        (&["application/json", "text/plain"], false),
    ] {
        let mut request = page.browser.post_json("{}");
        request.headers_mut().remove(header::CONTENT_TYPE);
        for value in types {
            request.headers_mut().append(header::CONTENT_TYPE, value.parse().unwrap());
        }
        let answer = page.send(request).await;
        match taken {
            true => assert_eq!(answer.status, StatusCode::OK, "{types:?}"),
            false => assert_refused(&answer, 415, "unsupported_media_type", types),
        }
    }
}

// R24 to R28: a request with several faults is refused for the first fault in the documented sequence. The test
// corrects one fault after the other.
#[tokio::test]
async fn refusals_follow_documented_order() {
    let mut page = Page::signed_in().await;
    let closed = page.browser.clone();
    page.browser.visit(&page.node, async |s| s.sign_out().await.unwrap()).await;
    let writeback = || allowing(&page.node.sessions);
    let mut request = closed.post_json("{".repeat(20 * KIB));
    *request.method_mut() = Method::GET;
    request.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
    request.headers_mut().insert(header::CONTENT_TYPE, "text/plain".parse().unwrap());

    let mut elsewhere = request.clone();
    *elsewhere.uri_mut() = "/elsewhere".parse().unwrap();
    assert_refused(&send_bare(writeback(), elsewhere).await, 404, "not_found", "every part is wrong");
    assert_refused(&send_bare(writeback(), request.clone()).await, 405, "method_not_allowed", "at the right path");
    *request.method_mut() = Method::POST;
    assert_refused(&send_bare(writeback(), request.clone()).await, 403, "cross_site", "posted");
    request.headers_mut().insert("sec-fetch-site", "same-origin".parse().unwrap());
    assert_refused(&send_bare(writeback(), request.clone()).await, 415, "unsupported_media_type", "same origin");
    request.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    assert_refused(&send_bare(writeback(), request.clone()).await, 413, "too_large", "JSON");
    for (body, status, code) in [
        (r#"{"visits":1,"level":"x""#, 400, "malformed_json"),
        (r#"{"visits":1,"visits":2,"level":"x"}"#, 400, "duplicate_name"),
        (r#"{"visits":1,"level":"x"}"#, 422, "not_allowed"),
        (r#"{"level":"x"}"#, 422, "invalid_value"),
    ] {
        *request.body_mut() = Full::from(body);
        for answer in
            [send_bare(writeback(), request.clone()).await, page.node.writeback(writeback(), request.clone()).await]
        {
            assert_refused(&answer, status, code, body);
        }
    }
    *request.body_mut() = Full::from(r#"{"level":1}"#);
    assert_refused(
        &page.node.writeback(writeback(), request.clone()).await,
        409,
        "session_closed",
        "the request is right, and the session has ended",
    );
    assert_refused(&send_bare(writeback(), request).await, 500, "no_layer", "the layer is missing");
}

#[tokio::test]
async fn hook_script_is_revalidated() {
    let page = Page::new();
    let hook = async |method: Method, tag: Option<&str>| {
        // Scripts are also fetched across sites, and without a content type.
        let mut request = page.browser.request_of(method, "/hook.js", "");
        request.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
        if let Some(tag) = tag {
            request.headers_mut().insert(header::IF_NONE_MATCH, tag.parse().unwrap());
        }
        page.node.writeback(SessionWriteback::new(&page.node.sessions), request).await
    };
    let got = hook(Method::GET, None).await;
    assert_eq!(got.status, StatusCode::OK);
    assert_eq!(got.headers[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
    assert_eq!(got.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(got.headers[header::CACHE_CONTROL], "no-cache");
    assert!(!got.headers.contains_key(header::VARY) && got.set_cookies().is_empty());
    assert!(std::str::from_utf8(&got.body).unwrap().contains("export const connect"));
    let tag = got.headers[header::ETAG].to_str().unwrap();
    assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 10, "{tag}");

    let head = hook(Method::HEAD, None).await;
    assert_eq!((head.status, &head.headers, head.body.len()), (StatusCode::OK, &got.headers, 0));
    assert_eq!(head.headers[header::CONTENT_LENGTH], got.body.len().to_string());

    for known in [tag.to_owned(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
        for method in [Method::GET, Method::HEAD] {
            let answer = hook(method, Some(&known)).await;
            assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_MODIFIED, 0), "{known}");
            assert_eq!(answer.headers[header::ETAG], tag);
        }
    }
    for unknown in ["\"x\"", "", &tag[1..tag.len() - 1]] {
        assert_eq!(hook(Method::GET, Some(unknown)).await.status, StatusCode::OK, "{unknown}");
    }
    let posted = hook(Method::POST, None).await;
    assert_refused(&posted, 405, "method_not_allowed", "POST");
    assert_eq!(posted.headers[header::ALLOW], "GET, HEAD");
    let off = SessionWriteback::new(&page.node.sessions).without_hook();
    assert_eq!(
        page.node.writeback(off, page.browser.request_of(Method::GET, "/hook.js", "")).await.code(),
        "not_found"
    );
}

#[tokio::test]
async fn writeback_answers_only_at_mount() {
    let page = Page::new();
    let post = |path: &str| {
        let mut request = page.browser.post_json(r#"{"theme":"dark"}"#);
        *request.uri_mut() = path.parse().unwrap();
        request
    };
    for at in ["/session", "/session/"] {
        for (path, status) in [
            ("/session", 200),
            ("/session/", 200),
            ("/session?x=1", 200),
            ("/session/hook.js", 405),
            ("/", 404),
            ("/hook.js", 404),
            ("/sessions", 404),
            ("/session/x", 404),
            ("/session//", 404),
            ("/Session", 404),
        ] {
            let answer = page.node.writeback(allowing(&page.node.sessions).mount_path(at), post(path)).await;
            assert_eq!(answer.status.as_u16(), status, "{path} at {at}");
        }
    }
    let app = Router::new()
        .nest_service("/session", allowing(&page.node.sessions))
        .layer(LayeredSessionLayer::new(page.node.sessions.clone()));
    for (method, path, status) in [
        (Method::POST, "/session", 200),
        (Method::POST, "/session/", 200),
        (Method::GET, "/session/hook.js", 200),
        (Method::GET, "/session", 405),
        (Method::POST, "/session/x", 404),
        (Method::POST, "/", 404),
    ] {
        let mut request = post(path).map(axum::body::Body::new);
        *request.method_mut() = method.clone();
        assert_eq!(app.clone().oneshot(request).await.unwrap().status().as_u16(), status, "{method} {path}");
    }
    // The authority stays unchanged: HTTP/2 has the authority in the target alone.
    let from = |origin: &str| {
        let body = axum::body::Body::from(r#"{"theme":"dark"}"#);
        let request = Request::post("https://app.example/session").header(header::ORIGIN, origin);
        request.version(Version::HTTP_2).header(header::CONTENT_TYPE, "application/json").body(body).unwrap()
    };
    assert_eq!(app.clone().oneshot(from("https://app.example")).await.unwrap().status(), StatusCode::OK);
    assert_eq!(app.oneshot(from("https://evil.example")).await.unwrap().status(), StatusCode::FORBIDDEN);
}
