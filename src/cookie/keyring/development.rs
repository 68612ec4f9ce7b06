//! [`KeyRing::development`]: a random key that a developer's machine keeps for an application.

use std::{
    env,
    fmt::{self, Write as _},
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use zeroize::Zeroizing;

use super::{KeyRing, NEW_LEN, random};
use crate::error::{BuildError, BuildErrorKind};

/// The folder of this crate in the state directory.
const FOLDER: &str = "layered-session";

/// The maximum number of characters of an application's name.
const MAX_NAME: usize = 64;

/// The applications for which this process has traced the warning.
static WARNED: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl KeyRing {
    /// Returns the development ring of an application: one random key, which this machine keeps for its user.
    ///
    /// The first call makes the key, and each later start reads the key. A restart ends no session, and the key needs
    /// no configuration. Processes that start at the same time get the same key. Each process traces a warning at its
    /// first call for an application.
    ///
    /// The key's file is `layered-session/<application>.key` under the user's state directory. Only that user can read
    /// the file. The state directory is `$XDG_STATE_HOME`, else `~/.local/state`, on macOS too; on Windows
    /// `%LOCALAPPDATA%`. The working tree is no place for a key, since a commit or a container image would take the key
    /// along.
    ///
    /// The function exists under `debug_assertions` alone. An application that calls the function in a release build
    /// does not compile:
    ///
    /// ```no_run
    /// use layered_session::{BuildError, KeyRing};
    ///
    /// fn keys() -> Result<KeyRing, BuildError> {
    ///     #[cfg(debug_assertions)]
    ///     if std::env::var_os("SESSION_KEYS").is_none() {
    ///         return KeyRing::development(env!("CARGO_PKG_NAME"));
    ///     }
    ///     KeyRing::from_env("SESSION_KEYS")
    /// }
    ///
    /// let ring = keys()?; // writes into the home of the user
    /// assert_eq!(format!("{ring:?}"), "KeyRing { keys: 1 }");
    /// # Ok::<(), BuildError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Of kind [`Key`](BuildErrorKind::Key), with the path and the remedy:
    ///
    /// - The name is not 1 to 64 ASCII letters, digits, `-` and `_`.
    /// - The user has no home, or the file can't be made or read there.
    /// - Other users can read the file, or the path leads to a folder or a symbolic link.
    /// - The file holds no key.
    pub fn development(application: &str) -> Result<Self, BuildError> {
        check(application)?;
        let state = state_directory().ok_or_else(|| {
            refusal(
                "the user of this process has no home directory for the development key",
                "set `HOME` (on Windows `LOCALAPPDATA`)",
            )
        })?;
        let path = path_in(&state, application);
        let ring = kept(&path)?;
        warn_once(application, &path);
        Ok(ring)
    }
}

/// Refuses a name that could leave the folder, or that a file system might refuse.
fn check(application: &str) -> Result<(), BuildError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if (1..=MAX_NAME).contains(&application.len()) && application.bytes().all(is_plain) {
        return Ok(());
    }
    let message = format!(
        "{application:?} can't be the name of a development key: use 1 to {MAX_NAME} ASCII letters, digits, `-` and `_`"
    );
    Err(BuildErrorKind::Key.error(message))
}

/// Returns the directory in which a user's programs keep state that outlives a restart and belongs to one machine.
#[cfg(unix)]
fn state_directory() -> Option<PathBuf> {
    // A relative path would lead into the working tree. The XDG base directory specification says to ignore such a
    // path.
    let absolute = |path: &PathBuf| path.is_absolute();
    let declared = env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(absolute);
    declared.or_else(|| Some(env::home_dir().filter(absolute)?.join(".local/state")))
}

#[cfg(windows)]
fn state_directory() -> Option<PathBuf> {
    env::var_os("LOCALAPPDATA").map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(not(any(unix, windows)))]
fn state_directory() -> Option<PathBuf> {
    None
}

fn path_in(state: &Path, application: &str) -> PathBuf {
    state.join(FOLDER).join(format!("{application}.key"))
}

/// Returns the ring of the key in a file, and makes an absent file first.
fn kept(path: &Path) -> Result<KeyRing, BuildError> {
    if fs::symlink_metadata(path).is_err() {
        make(path)?;
    }
    let text = read(path)?;
    KeyRing::from_hex(text.trim()).map_err(|error| {
        refusal(
            format_args!("the file `{}` of the development key holds no valid key", path.display()),
            "remove the file",
        )
        .caused_by(error)
    })
}

/// Makes the file with a new key. If another process makes the file first, that file stays.
fn make(path: &Path) -> Result<(), BuildError> {
    let failed = |error: io::Error| {
        let what = format_args!("the file `{}` of the development key can't be made", path.display());
        refusal(what, "make the file's folder writable").caused_by(error)
    };
    let key = random::<NEW_LEN>()?;
    let mut line = Zeroizing::new(String::with_capacity(2 * key.len() + 1));
    for byte in key.iter() {
        write!(line, "{byte:02x}").expect("a write to a `String` does not fail");
    }
    line.push('\n');
    if let Some(folder) = path.parent() {
        private_folder(folder).map_err(failed)?;
    }
    // The draft is written whole, and then linked to the final name: no reader sees half a key, and two processes that
    // start at once both read the key that was linked first. The draft's name is random, not the process id: in a
    // container, a restart after a crash has the same process id as the draft of the crashed process.
    let draft = path.with_extension(format!("{:016x}.draft", rand::random::<u64>()));
    let made = private_file(&draft).and_then(|mut file| {
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        fs::hard_link(&draft, path)
    });
    fs::remove_file(&draft).ok();
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Reads the text of the file. Refuses a file that other users can read.
fn read(path: &Path) -> Result<Zeroizing<String>, BuildError> {
    let shown = path.display();
    let failed = |error: io::Error| {
        refusal(format_args!("the file `{shown}` of the development key can't be read"), "remove the file")
            .caused_by(error)
    };
    // Checked before the file is opened: a named pipe would block the process, and a link could lead anywhere.
    if !fs::symlink_metadata(path).map_err(failed)?.is_file() {
        return Err(refusal(
            format_args!("the file `{shown}` of the development key is not a regular file"),
            "remove the folder or link of this name",
        ));
    }
    let mut file = File::open(path).map_err(failed)?;
    if is_open_to_others(&file.metadata().map_err(failed)?) {
        // A stricter mode now would not help: other users may have read the key before.
        return Err(refusal(
            format_args!("other users can read the file `{shown}` of the development key"),
            "remove the file",
        ));
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Whether the mode gives other users any permission. Without such a permission, a file that another user owns does not
/// open, so a file that opens belongs to this user.
#[cfg(unix)]
fn is_open_to_others(file: &Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o077 != 0
}

/// On other systems the file inherits the permissions of the user's profile, which contains the file.
#[cfg(not(unix))]
const fn is_open_to_others(_: &Metadata) -> bool {
    false
}

/// Makes a folder and its absent parents, readable for this user alone.
fn private_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes a new file that this user alone may read.
fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Traces the warning that a development key seals, once for each application of this process.
fn warn_once(application: &str, path: &Path) {
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if warned.iter().any(|name| name == application) {
        return;
    }
    warned.push(application.to_owned());
    drop(warned);
    tracing::warn!(
        path = %path.display(),
        "a development key seals the sessions: in production use `KeyRing::from_env`, with the output of `openssl rand \
         -hex 32` in the environment variable"
    );
}

fn refusal(what: impl fmt::Display, remedy: &str) -> BuildError {
    let message = format!(
        "{what}: {remedy}, or set `SESSION_KEYS` to the output of `openssl rand -hex 32` and use \
         `KeyRing::from_env(\"SESSION_KEYS\")`"
    );
    BuildErrorKind::Key.error(message)
}

#[cfg(unix)]
#[cfg(test)]
mod tests;
