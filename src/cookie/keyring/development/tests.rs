//! The file of a development key: its place, its rights, and processes that start at once.

use std::{
    os::unix::fs::{PermissionsExt, symlink},
    process::{Child, Command, Stdio},
};

use super::*;

/// The variable that names the state directory for [`child`].
const STATE: &str = "XDG_STATE_HOME";

/// A temporary state directory of one test.
struct State(PathBuf);

impl State {
    fn new() -> Self {
        let path = env::temp_dir().join(format!("layered-session-{:016x}", rand::random::<u64>()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> PathBuf {
        path_in(&self.0, "shop")
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(FOLDER)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn message(refused: Result<KeyRing, BuildError>) -> String {
    let error = refused.expect_err("a development key was taken");
    assert_eq!(error.kind(), BuildErrorKind::Key);
    error.to_string()
}

/// Asserts that the file is refused, and that the error names the path and both remedies.
fn refused(path: &Path, reason: &str) {
    let message = message(kept(path));
    for part in [reason, &*path.to_string_lossy(), "remove ", "`openssl rand -hex 32`", "`KeyRing::from_env"] {
        assert!(message.contains(part), "no {part:?}: {message}");
    }
}

fn id(ring: &KeyRing) -> [u8; 4] {
    ring.keys().sealing.id
}

#[test]
fn second_start_reuses_the_key() {
    let state = State::new();
    let [first, second] = [(); 2].map(|()| kept(&state.path()).unwrap());
    assert_eq!(id(&first), id(&second));
    assert_ne!(id(&first), id(&kept(&path_in(&state.0, "blog")).unwrap()));
    assert_eq!((mode(&state.path()), mode(&state.0.join(FOLDER))), (0o600, 0o700));
    assert_eq!(fs::read_to_string(state.path()).unwrap().trim().len(), 128);
    let mut files = state.files();
    files.sort();
    assert_eq!(files, ["blog.key", "shop.key"]);
}

#[test]
fn loose_file_permissions_are_refused() {
    let state = State::new();
    kept(&state.path()).unwrap();
    for bit in [0o040, 0o020, 0o010, 0o004, 0o002, 0o001] {
        set_mode(&state.path(), 0o600 | bit);
        refused(&state.path(), "other users can read");
    }
    set_mode(&state.path(), 0o400);
    kept(&state.path()).unwrap();
}

#[test]
fn only_regular_files_are_read() {
    let (state, elsewhere) = (State::new(), State::new());
    kept(&elsewhere.path()).unwrap();
    fs::create_dir(state.0.join(FOLDER)).unwrap();
    symlink(elsewhere.path(), state.path()).unwrap();
    refused(&state.path(), "not a regular file");
    fs::remove_file(state.path()).unwrap();
    symlink(state.0.join("nowhere"), state.path()).unwrap();
    refused(&state.path(), "not a regular file");
    fs::remove_file(state.path()).unwrap();
    fs::create_dir(state.path()).unwrap();
    refused(&state.path(), "not a regular file");
}

#[test]
fn damaged_file_is_refused() {
    let state = State::new();
    kept(&state.path()).unwrap();
    for text in ["", "\n", "secret", &"00".repeat(32)] {
        fs::write(state.path(), text).unwrap();
        refused(&state.path(), "holds no valid key");
    }
    fs::write(state.path(), [0xff; 64]).unwrap();
    refused(&state.path(), "can't be read");
}

#[test]
fn path_like_names_are_refused() {
    for name in ["", ".", "..", "a/b", "../shop", "a\\b", "a.b", "a b", "a\0b", "å", &"a".repeat(65)] {
        let message = message(KeyRing::development(name));
        assert!(message.contains("ASCII letters, digits"), "{message}");
    }
    for name in ["shop", "Shop_2-b", &"a".repeat(64)] {
        check(name).unwrap();
    }
}

/// Calls [`KeyRing::development`] in a separate process, since only a process has separate environment variables.
/// Prints the key's id, or the error.
#[test]
#[ignore = "other tests start this test as a process"]
fn child() {
    tracing_subscriber::fmt().with_ansi(false).init();
    let ids = [(); 2].map(|()| KeyRing::development("layered-session-test").map(|ring| id(&ring)));
    match ids {
        [Ok(first), Ok(second)] => println!("key {first:?} {}", first == second),
        [_, Err(error)] | [Err(error), _] => println!("error {error}"),
    }
}

fn start(variables: &[(&str, &Path)]) -> Child {
    let name = concat!(module_path!(), "::child");
    let (_, name) = name.split_once("::").unwrap();
    Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env_remove(STATE)
        .env_remove("HOME")
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn printed(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the output's first occurrence of a text, to the end of its line.
fn line<'a>(output: &'a str, begins: &str) -> &'a str {
    output.lines().find_map(|line| Some(&line[line.find(begins)?..])).unwrap_or_else(|| panic!("{output}"))
}

#[test]
fn simultaneous_processes_share_a_key() {
    let state = State::new();
    let children: Vec<_> = (0..8).map(|_| start(&[(STATE, &state.0)])).collect();
    let outputs: Vec<_> = children.into_iter().map(printed).collect();
    let keys: Vec<_> = outputs.iter().map(|output| line(output, "key [")).collect();
    assert!(keys.iter().all(|key| *key == keys[0] && key.ends_with("true")), "{keys:?}");
    assert_eq!(state.files(), ["layered-session-test.key"]);
}

#[test]
fn warning_is_logged_once() {
    let state = State::new();
    let output = printed(start(&[(STATE, &state.0)]));
    let warnings: Vec<_> = output.lines().filter(|line| line.contains("WARN")).collect();
    let [warning] = warnings[..] else { panic!("{output}") };
    let path = path_in(&state.0, "layered-session-test");
    for part in [&*path.to_string_lossy(), "development key", "in production use `KeyRing::from_env`"] {
        assert!(warning.contains(part), "no {part:?}: {warning}");
    }
}

#[test]
fn state_directory_falls_back_to_home() {
    let home = State::new();
    for declared in [None, Some(Path::new("")), Some(Path::new("relative"))] {
        let declared = declared.map(|declared| (STATE, declared));
        let variables: Vec<_> = declared.into_iter().chain([("HOME", &*home.0)]).collect();
        let output = printed(start(&variables));
        let path = path_in(&home.0.join(".local/state"), "layered-session-test");
        assert!(line(&output, "path=").contains(&*path.to_string_lossy()), "{declared:?}: {output}");
        fs::remove_dir_all(home.0.join(".local")).unwrap();
    }
}

#[test]
fn unusable_home_error_names_a_remedy() {
    let output = printed(start(&[("HOME", Path::new("relative"))]));
    for part in ["no home directory", "`KeyRing::from_env"] {
        assert!(line(&output, "error ").contains(part), "no {part:?}: {output}");
    }
    // No user, root included, can make a folder under a file.
    let state = State::new();
    fs::write(state.0.join("file"), "").unwrap();
    let output = printed(start(&[(STATE, &state.0.join("file"))]));
    for part in ["can't be made", "make the file's folder writable", "`openssl rand -hex 32`", "`KeyRing::from_env"] {
        assert!(line(&output, "error ").contains(part), "no {part:?}: {output}");
    }
}
