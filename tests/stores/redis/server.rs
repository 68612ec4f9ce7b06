//! Real `redis-server` processes: each on a free port of the loopback, with a directory of its own.

use std::{
    env, fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use redis::{ConnectionLike, FromRedisValue};
use rustix::process::{Pid, Signal, kill_process};

use super::port::free_port;

/// A server of one test. The end of the test stops the process.
pub(crate) struct Server {
    port: u16,
    folder: PathBuf,
    settings: Vec<String>,
    process: Child,
}

/// Starts a server. Returns `None` and names the test on stderr if there is no `redis-server`; under `CI=true` a missing
/// server fails the test.
pub(crate) fn server() -> Option<Server> {
    server_with(&[])
}

/// Starts a server with settings of the command line, such as `--appendonly yes`. A test that kills the server adds
/// `--appendfsync no`: while an fsync is under way, Redis otherwise answers writes before Redis writes them to the file.
pub(crate) fn server_with(settings: &[&str]) -> Option<Server> {
    static SERVERS: AtomicU32 = AtomicU32::new(0);
    if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
        assert!(env::var("CI").as_deref() != Ok("true"), "`redis-server` is missing");
        let name = thread::current().name().unwrap_or_default().to_owned();
        // Past the capture of the test harness, which hides the output of a test that passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED {name}: `redis-server` is missing");
        return None;
    }
    let number = SERVERS.fetch_add(1, Ordering::Relaxed);
    let folder = env::temp_dir().join(format!("layered-session-redis-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let settings: Vec<_> = settings.iter().map(|&setting| setting.to_owned()).collect();
    // Another process may take a free port before the server does.
    for _ in 0..10 {
        let port = free_port();
        let mut process = spawn(port, &folder, &settings);
        if wait(port, &mut process) {
            return Some(Server { port, folder, settings, process });
        }
        process.wait().unwrap();
    }
    panic!("no `redis-server` starts: {}", fs::read_to_string(folder.join("log")).unwrap_or_default());
}

fn spawn(port: u16, folder: &PathBuf, settings: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--logfile", "log", "--dir"]);
    command.arg(folder).args(settings).stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().unwrap()
}

/// Waits until the server answers. Returns false if the process has ended.
fn wait(port: u16, process: &mut Child) -> bool {
    let begin = Instant::now();
    while process.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < Duration::from_secs(30), "the server does not answer");
        let mut answer = [0; 7];
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            // A server that reads its data answers `-LOADING`.
            let answered = stream.write_all(b"PING\r\n").and_then(|()| stream.read_exact(&mut answer));
            if answered.is_ok() && answer == *b"+PONG\r\n" {
                return true;
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

impl Server {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command on a connection of its own. The words are separated by spaces.
    ///
    /// # Panics
    ///
    /// If the server refuses the command.
    pub(crate) fn run<T: FromRedisValue>(&self, command: &str) -> T {
        let words: Vec<_> = command.split(' ').collect();
        self.run_words(&words)
    }

    pub(crate) fn run_words<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().unwrap();
        let (first, rest) = words.split_first().unwrap();
        let value = connection.req_command(redis::cmd(first).arg(rest)).unwrap();
        redis::from_redis_value(value).unwrap()
    }

    /// Lets the server refuse writes that need memory.
    pub(crate) fn fill(&self) {
        self.run::<()>("CONFIG SET maxmemory 1");
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts the killed server again, on the same port and with its directory.
    pub(crate) fn start(&mut self) {
        self.process = spawn(self.port, &self.folder, &self.settings);
        assert!(wait(self.port, &mut self.process), "the port was taken meanwhile");
    }

    /// Stops the process from running, as an overloaded machine does.
    pub(crate) fn pause(&self) {
        kill_process(Pid::from_child(&self.process), Signal::STOP).unwrap();
    }

    pub(crate) fn resume(&self) {
        kill_process(Pid::from_child(&self.process), Signal::CONT).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
