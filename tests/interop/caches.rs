//! nginx's shared cache in front of the layer.

use layered_session::SessionsBuilder;

use crate::{
    Result,
    app::App,
    curl,
    programs::{Folder, Proxy},
};

const CACHE: &str = "proxy_cache pages; proxy_cache_valid 200 1m; add_header X-Cache $upstream_cache_status;";

/// Reads a page through the cache with two sessions and a visitor. Returns the number of answers from the cache, and
/// the answer for the cookie of a session that has ended elsewhere.
async fn read_through_cache(settings: impl FnOnce(SessionsBuilder) -> SessionsBuilder) -> Result<(usize, String)> {
    let (app, folder) = (App::start_with(settings).await?, Folder::new()?);
    let proxy = Proxy::nginx(app.address, CACHE).await?;
    let jar = |name: &str| folder.file(name).display().to_string();
    let direct = |path: &str| format!("http://{}{path}", app.address);
    for note in ["ada", "bob"] {
        curl(&["--cookie-jar", &jar(note), &direct(&format!("/note/{note}"))]).await?;
    }
    let read = async |name: &str| {
        let lines = curl(&["--include", "--cookie", &jar(name), &proxy.url("/note")]).await?;
        let hit = lines.iter().any(|line| line.trim_end().eq_ignore_ascii_case("x-cache: hit"));
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((lines.last().cloned().unwrap_or_default(), hit))
    };
    let mut hits = 0;
    for _ in 0..3 {
        for (name, note) in [("ada", "ada"), ("bob", "bob"), ("nobody", "")] {
            let (told, hit) = read(name).await?;
            assert_eq!(told, note);
            hits += usize::from(hit);
        }
    }
    curl(&["--cookie", &jar("ada"), &direct("/forget")]).await?;
    Ok((hits, read("ada").await?.0))
}

// R21: the shared cache of nginx keeps no page of a session.
#[tokio::test]
async fn nginx_caches_no_session_page() -> Result {
    assert_eq!(read_through_cache(|sessions| sessions).await?, (0, String::new()));
    // `without_cache_control` gives up the protection: nginx then serves the page of an ended session.
    assert_eq!(read_through_cache(SessionsBuilder::without_cache_control).await?, (6, "ada".to_owned()));
    Ok(())
}
