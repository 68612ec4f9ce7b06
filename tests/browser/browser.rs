//! Chromium with a chromedriver and a profile of its own.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, id},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;

use crate::{Result, process::Process, server::Server, tab::Tab};

/// The longest wait for the driver's port, and for Chromium's exit.
const READY: Duration = Duration::from_secs(30);
const LEAVE: Duration = Duration::from_secs(10);

/// Starts the driver. The driver takes a free port of one address family, and then the same port of the other family, which
/// another process may have: then a second start finds another port.
fn start_driver(driver: &Path) -> Result<(Process, String)> {
    let mut command = Command::new(driver);
    command.arg("--port=0");
    Process::start(command, "started successfully on port ", READY)
}

#[derive(Debug)]
pub(crate) struct Browser {
    client: Client,
    session: String,
    driver: SocketAddr,
    url: String,
    // The driver is dropped before the profile, since its browser writes to the profile.
    _process: Process,
    _profile: Profile,
}

impl Browser {
    pub(crate) async fn start(server: &Server) -> Result<Self> {
        Self::at(server.url()).await
    }

    pub(crate) async fn at(url: String) -> Result<Self> {
        Self::with(url, &[]).await
    }

    /// Starts a browser with further arguments for Chromium.
    pub(crate) async fn with(url: String, more: &[&str]) -> Result<Self> {
        let (chromium, driver) = installed()?;
        let profile = Profile::new()?;
        let (process, line) = start_driver(&driver).or_else(|_| start_driver(&driver))?;
        let port = line.trim_end_matches('.').rsplit(' ').next().unwrap_or_default().parse()?;
        let driver = SocketAddr::from((Ipv4Addr::LOCALHOST, port));

        // Over a pipe Chromium exits with its driver, however the driver ends.
        let profile_folder = format!("--user-data-dir={}", profile.0.display());
        let arguments = [
            "--headless=new",
            "--remote-debugging-pipe",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &profile_folder,
        ];
        let arguments: Vec<_> = arguments.iter().chain(more).collect();
        let options = json!({ "binary": chromium, "args": arguments });
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities([("goog:chromeOptions".to_owned(), options)].into_iter().collect());
        let client = builder.connect(&format!("http://{driver}")).await?;
        let session = client.session_id().await?.ok_or("the driver began no session")?;
        Ok(Self { client, session, driver, url, _process: process, _profile: profile })
    }

    /// Deletes the driver's session and waits for Chromium's exit. The function is synchronous, so that a destructor
    /// can call the function.
    fn leave(&self) -> io::Result<()> {
        let Self { session, driver, .. } = self;
        let mut stream = TcpStream::connect(driver)?;
        stream.set_read_timeout(Some(LEAVE))?;
        write!(stream, "DELETE /session/{session} HTTP/1.1\r\nHost: {driver}\r\nConnection: close\r\n\r\n")?;
        stream.read(&mut [0; 64]).map(drop)
    }

    /// Opens the page in a new tab that records its traffic, and returns when the page's connection is open.
    pub(crate) async fn open(&self) -> Result<Tab> {
        let tab = self.blank().await?;
        tab.watch().await?;
        tab.visit(&self.url).await?;
        Ok(tab)
    }

    /// As `open`, with the browser's own `fetch`: the recording `fetch` can't send while the user leaves the page.
    pub(crate) async fn open_unwatched(&self) -> Result<Tab> {
        let tab = self.blank().await?;
        tab.visit(&self.url).await?;
        Ok(tab)
    }

    /// As `open`, in a tab whose browser believes that there is no network.
    pub(crate) async fn open_offline(&self) -> Result<Tab> {
        let tab = self.blank().await?;
        let source = "Object.defineProperty(navigator, 'onLine', { get: () => false })";
        tab.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": source })).await?;
        tab.visit(&self.url).await?;
        Ok(tab)
    }

    /// Opens the page in a new tab that can't connect.
    pub(crate) async fn open_away(&self) -> Result<Tab> {
        let tab = self.blank().await?;
        tab.load(&self.url).await?;
        Ok(tab)
    }

    /// Opens another page of the server in a new tab.
    pub(crate) async fn open_at(&self, path: &str) -> Result<Tab> {
        let tab = self.blank().await?;
        tab.load(&format!("{}{path}", self.url)).await?;
        Ok(tab)
    }

    /// As `open_at`, in a tab that runs no script.
    pub(crate) async fn open_without_script(&self, path: &str) -> Result<Tab> {
        let tab = self.blank().await?;
        tab.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await?;
        tab.load(&format!("{}{path}", self.url)).await?;
        Ok(tab)
    }

    async fn blank(&self) -> Result<Tab> {
        let window = self.client.new_window(true).await?.handle;
        Ok(Tab::new(self.client.clone(), window))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.leave().unwrap_or_else(|error| println!("Chromium is cut off: {error}"));
    }
}

/// The paths of Chromium and its driver, under the names that systems use.
fn installed() -> Result<(PathBuf, PathBuf)> {
    let path = env::var_os("PATH").unwrap_or_default();
    let find = |name: &str| env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    let chromium = ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(find);
    match (chromium, find("chromedriver")) {
        (Some(chromium), Some(driver)) => Ok((chromium, driver)),
        _ => Err("these tests need Chromium and chromedriver in PATH: run tests/all.sh, which installs them".into()),
    }
}

/// An empty user data directory below the target directory, removed at the end.
#[derive(Debug)]
struct Profile(PathBuf);

impl Profile {
    fn new() -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);

        let name = format!("chromium-{}-{}", id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let profile = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        fs::create_dir_all(&profile.0)?;
        Ok(profile)
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or_else(|error| println!("{} stays: {error}", self.0.display()));
    }
}
