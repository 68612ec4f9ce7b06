//! Clients and proxies as separate programs on loopback. Each program stops when its owner drops the value.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio, id},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, time::sleep};

use crate::Result;

const READY: Duration = Duration::from_secs(30);

/// Runs a client to its end and returns the lines of its output.
pub(crate) async fn run(program: &str, arguments: Vec<String>) -> Result<Vec<String>> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    if !output.status.success() {
        return Err(format!("{program}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

/// A folder below the target directory, removed on drop.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);

        let name = format!("interop-{}-{}", id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or_else(|error| println!("{} stays: {error}", self.0.display()));
    }
}

/// A proxy in front of an application.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    process: Child,
    _folder: Folder,
}

impl Proxy {
    /// Starts nginx with these lines in its `location /`.
    pub(crate) async fn nginx(target: SocketAddr, location: &str) -> Result<Self> {
        Self::nginx_at(free_address()?, target, location).await
    }

    pub(crate) async fn nginx_at(address: SocketAddr, target: SocketAddr, location: &str) -> Result<Self> {
        let folder = Folder::new()?;
        let at = folder.0.display();
        let configuration = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr; events {{}}
             http {{
                 access_log off;
                 client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
                 uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
                 proxy_cache_path {at}/cache keys_zone=pages:1m;
                 map $http_upgrade $upgraded {{ default upgrade; '' ''; }}
                 server {{
                     listen {address};
                     location / {{
                         proxy_pass http://{target}; proxy_http_version 1.1;
                         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $upgraded;
                         {location}
                     }}
                 }}
             }}"
        );
        let file = folder.file("nginx.conf");
        fs::write(&file, configuration)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&folder.0).arg("-c").arg(file);
        Self::start(command, address, folder).await
    }

    pub(crate) async fn haproxy(target: SocketAddr) -> Result<Self> {
        let (address, folder) = (free_address()?, Folder::new()?);
        let configuration = format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n timeout tunnel 30s\n\
             listen proxy\n bind {address}\n server application {target}\n"
        );
        let file = folder.file("haproxy.cfg");
        fs::write(&file, configuration)?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(file);
        Self::start(command, address, folder).await
    }

    async fn start(mut command: Command, address: SocketAddr, folder: Folder) -> Result<Self> {
        let process = command.stdin(Stdio::null()).spawn()?;
        let proxy = Self { address, process, _folder: folder };
        let deadline = Instant::now() + READY;
        while TcpStream::connect(address).await.is_err() {
            if Instant::now() > deadline {
                return Err(format!("nothing listens at {address} after {READY:?}").into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(proxy)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait());
        ended.map_or_else(|error| println!("a proxy stays: {error}"), drop);
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
