//! The keys behind the seal: a ring whose first key seals, and whose keys all open.
//!
//! The main type is [`KeyRing`], the handle of the application. Each seal uses one snapshot of the ring, [`Keys`].

use std::{
    fmt, iter,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use hkdf::Hkdf;
use rand::{TryRng, rngs::SysRng};
use sha2::Sha256;
use xaes_256_gcm::{Xaes256Gcm, aead::KeyInit};
use zeroize::Zeroizing;

use crate::error::{BuildError, BuildErrorKind};

#[cfg(debug_assertions)]
mod development;

/// The keys of the tokens that browsers carry: the first key seals, all keys open.
///
/// A `KeyRing` is a handle: clones share one ring, and [`replace`](Self::replace) on any clone changes the keys of all.
///
/// To rotate, put the new key first, and keep the old key behind it until the cookies of the old key have expired. A
/// response seals a cookie of the old key again under the new key. The cookies of a key end at once with the removal of
/// the key. With several nodes, add the new key in second place on all nodes before any node puts the new key first.
///
/// A key is at least 32 random bytes. Guessable keys are refused: text, short patterns, plain sequences, padding
/// (CVE-2023-27524, a default key that thousands of servers ran with). There is no default key.
///
/// ```
/// use layered_session::{BuildErrorKind, KeyRing};
///
/// let ring = KeyRing::generate()?;
/// assert_eq!(format!("{ring:?}"), "KeyRing { keys: 1 }");
///
/// let text = "correct horse battery staple, correct horse";
/// let refused = KeyRing::new([text]).unwrap_err();
/// assert_eq!(refused.kind(), BuildErrorKind::Key);
/// # Ok::<(), layered_session::BuildError>(())
/// ```
#[derive(Clone)]
pub struct KeyRing(Arc<Ring>);

struct Ring {
    keys: RwLock<Arc<Keys>>,
    /// The generation of `keys`. The recognition of a token reads the generation alone, without a clone of the `Arc`: a
    /// reference count that all threads change would slow the threads down.
    generation: AtomicU64,
}

impl KeyRing {
    /// Makes a ring of raw keys, at least 32 bytes each.
    ///
    /// # Errors
    ///
    /// Of kind [`Key`](BuildErrorKind::Key): no key is given, a key is too short or guessable, or a key is given twice.
    pub fn new(keys: impl IntoIterator<Item: AsRef<[u8]>>) -> Result<Self, BuildError> {
        let keys = Keys::derive(1, keys)?;
        let generation = AtomicU64::new(keys.generation);
        Ok(Self(Arc::new(Ring { keys: RwLock::new(Arc::new(keys)), generation })))
    }

    /// Makes a ring of hex keys, separated by commas, with optional blanks around each key. `openssl rand -hex 32`
    /// makes a key.
    ///
    /// # Errors
    ///
    /// The errors of [`new`](Self::new); and an error for a key that is not hex.
    pub fn from_hex(keys: &str) -> Result<Self, BuildError> {
        let keys: Vec<_> = (1..)
            .zip(keys.split(','))
            .map(|(number, key)| decode_hex(key.trim()).ok_or_else(|| refusal(format_args!("key {number} is not hex"))))
            .collect::<Result<_, _>>()?;
        Self::new(keys)
    }

    /// Makes a ring of the keys in an environment variable, in the form of [`from_hex`](Self::from_hex).
    ///
    /// `export SESSION_KEYS=$(openssl rand -hex 32)` sets a new key. [`development`](Self::development) keeps a key for
    /// development, where the variable need not be set.
    ///
    /// # Errors
    ///
    /// The errors of [`from_hex`](Self::from_hex); and an error if the variable is not set. Each error names the
    /// variable.
    pub fn from_env(variable: &str) -> Result<Self, BuildError> {
        // Not `env::var`: its error prints a text that is not Unicode, which may be a key.
        let text = std::env::var_os(variable).ok_or_else(|| {
            let unset = format!(
                "the environment variable `{variable}` is not set: set the variable to the output of `openssl rand \
                 -hex 32`, or, for development alone, use `KeyRing::development`"
            );
            BuildErrorKind::Key.error(unset)
        })?;
        let text = text.into_string().map_err(|_| refusal(format_args!("`{variable}` is not hex")))?;
        Self::from_hex(&Zeroizing::new(text))
            .map_err(|error| BuildErrorKind::Key.error(format!("`{variable}`: {error}")))
    }

    /// Makes a ring of one new key from the operating system's generator.
    ///
    /// The key's sessions end with the process, and no other node opens its tokens: for tests, and for a single node
    /// whose sessions may end with every restart.
    ///
    /// # Errors
    ///
    /// Fails if the operating system gives no randomness.
    pub fn generate() -> Result<Self, BuildError> {
        Self::new([&*random::<NEW_LEN>()?])
    }

    /// Replaces the keys for all clones of this handle. The next request seals and opens with the new keys.
    ///
    /// A token of a removed key no longer opens, not even a token whose session is in memory.
    ///
    /// # Errors
    ///
    /// The errors of [`new`](Self::new). After an error the earlier keys stay.
    pub fn replace(&self, keys: impl IntoIterator<Item: AsRef<[u8]>>) -> Result<(), BuildError> {
        // Derived before the lock is taken: the caller's iterator may panic, or use this ring.
        let mut new = Keys::derive(0, keys)?;
        let mut keys = self.0.keys.write().unwrap_or_else(PoisonError::into_inner);
        new.generation = keys.generation + 1;
        self.0.generation.store(new.generation, Ordering::Release);
        *keys = Arc::new(new);
        Ok(())
    }

    /// Returns a snapshot of the keys, which a later `replace` does not change.
    pub(crate) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.0.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the present [`Keys::generation`].
    pub(crate) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("keys", &(1 + self.keys().retired.len())).finish()
    }
}

/// The subkeys of one generation of a ring.
pub(crate) struct Keys {
    /// The number of this set of keys: 1, and one more after each replacement. A cached result of an opened token is
    /// valid only for the same generation.
    pub(crate) generation: u64,
    pub(super) sealing: Key,
    retired: Vec<Key>,
}

impl Keys {
    fn derive(generation: u64, keys: impl IntoIterator<Item: AsRef<[u8]>>) -> Result<Self, BuildError> {
        let mut keys = (1..).zip(keys);
        let (number, first) = keys.next().ok_or_else(|| refusal("the key ring has no key"))?;
        let sealing = Key::derive(number, first.as_ref())?;
        // Reserves all of the room at once: a vector that grows leaves unwiped copies of the keys in freed memory.
        let retired = Vec::with_capacity(keys.size_hint().0);
        let mut ring = Self { generation, sealing, retired };
        for (number, key) in keys {
            let key = Key::derive(number, key.as_ref())?;
            if ring.find(key.id).is_some() {
                return Err(refusal(format_args!(
                    "key {number} is in the ring already, or has the same id as another key"
                )));
            }
            ring.retired.push(key);
        }
        Ok(ring)
    }

    pub(crate) fn find(&self, id: KeyId) -> Option<&Key> {
        iter::once(&self.sealing).chain(&self.retired).find(|key| key.id == id)
    }
}

/// The name of a key in a token, in clear. The name tells nothing about the key.
pub(super) type KeyId = [u8; 4];

/// The ciphers that are derived from one key of a ring, one cipher per purpose. The ring does not keep the key itself.
pub(crate) struct Key {
    pub(super) id: KeyId,
    pub(super) cookie: Xaes256Gcm,
    pub(super) relay: Xaes256Gcm,
    pub(super) birth: Xaes256Gcm,
    pub(super) turn: Xaes256Gcm,
}

impl Key {
    const MIN_LEN: usize = 32;

    fn derive(number: usize, key: &[u8]) -> Result<Self, BuildError> {
        if key.len() < Self::MIN_LEN {
            return Err(refusal(format_args!(
                "key {number} has {} bytes, and needs at least {}",
                key.len(),
                Self::MIN_LEN
            )));
        }
        if let Some(weakness) = weakness(key) {
            return Err(refusal(format_args!("key {number} {weakness}")));
        }
        // RFC 5869. A random key has full entropy, and so needs no salt.
        let hkdf = Hkdf::<Sha256>::new(None, key);
        let subkey = |info: &str| {
            let mut subkey = Zeroizing::new([0; 32]);
            hkdf.expand(info.as_bytes(), &mut *subkey).expect("HKDF-SHA256 gives up to 8160 bytes");
            subkey
        };
        let cipher = |info| Xaes256Gcm::new((&*subkey(info)).into());
        let [a, b, c, d, ..] = *subkey("layered-session v1 key id");
        Ok(Self {
            id: [a, b, c, d],
            cookie: cipher("layered-session v1 seal cookie"),
            relay: cipher("layered-session v1 seal relay"),
            birth: cipher("layered-session v1 seal birth"),
            turn: cipher("layered-session v1 seal turn"),
        })
    }
}

/// Describes the sign of a key that is not random: a passphrase, a sample from documentation, hex text in place of its
/// bytes. The check also refuses about one in 2^32 random keys of 32 bytes.
fn weakness(key: &[u8]) -> Option<&'static str> {
    let repeats = |period| key[period..] == key[..key.len() - period];
    let distinct = (0..=u8::MAX).filter(|byte| key.contains(byte)).count();
    let is_sequence = key.windows(3).all(|run| run[1].wrapping_sub(run[0]) == run[2].wrapping_sub(run[1]));
    if distinct == 1 {
        Some("is not random, since its bytes repeat")
    } else if is_sequence {
        Some("is not random, since its bytes rise or fall in equal steps")
    } else if key.is_ascii() {
        Some("is text and not random bytes (give a text of hex digits to `KeyRing::from_hex`)")
    } else if (1..=key.len() / 2).any(repeats) {
        Some("is not random, since its bytes repeat")
    } else if distinct < 18 {
        // A key of 16 random bytes and padding has at most 17 different bytes, and is refused. Only one in 10^13 random
        // keys of 32 bytes has so few.
        Some("is not random, since it has too few different bytes")
    } else {
        None
    }
}

/// The length of a new key, in bytes: twice the minimum, so that the check never mistakes random bytes for text.
const NEW_LEN: usize = 2 * Key::MIN_LEN;

/// Returns random bytes of the operating system's generator, for a new key.
pub(super) fn random<const LEN: usize>() -> Result<Zeroizing<[u8; LEN]>, BuildError> {
    let mut key = Zeroizing::new([0; LEN]);
    let failed = BuildErrorKind::Key.error("the operating system gave no random bytes for a key");
    SysRng.try_fill_bytes(&mut *key).map_err(|error| failed.caused_by(error))?;
    Ok(key)
}

fn refusal(what: impl fmt::Display) -> BuildError {
    BuildErrorKind::Key.error(format!("{what}: make a key with `openssl rand -hex 32`"))
}

fn decode_hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let nibble = |digit: u8| char::from(digit).to_digit(16);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let mut bytes = Zeroizing::new(Vec::with_capacity(pairs.len()));
    for &[high, low] in pairs {
        bytes.push((nibble(high)? << 4 | nibble(low)?) as u8);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use sha2::Digest;

    use super::*;

    /// Derives a key for tests. The source contains no literal key that a configuration could copy.
    fn key(number: u32) -> [u8; 32] {
        Sha256::digest(format!("layered-session test key {number}")).into()
    }

    fn hex(key: &[u8]) -> String {
        key.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn refused<T>(result: Result<T, BuildError>) -> String {
        let error = result.err().expect("a ring of weak keys was made");
        assert_eq!(error.kind(), BuildErrorKind::Key);
        assert!(error.to_string().contains("`openssl rand -hex 32`"), "no remedy: {error}");
        error.to_string()
    }

    #[test]
    fn guessable_keys_are_refused() {
        let half = &key(1)[..16];
        let weak: [(&str, Vec<u8>); 13] = [
            ("is text", b"CHANGE_ME_TO_A_COMPLEX_RANDOM_SECRET".to_vec()),
            ("is text", b"\x02\x01thisismyscretkey\x01\x02\\e\\y\\y\\h".repeat(2)),
            ("is text", [b"secret".as_slice(), &[0; 26]].concat()),
            ("is text", hex(&key(1)).into_bytes()),
            ("bytes repeat", vec![0; 32]),
            ("equal steps", (0..32).collect()),
            ("bytes repeat", vec![0xff; 64]),
            ("bytes repeat", b"\xde\xad\xbe\xef\xca\xfe\xba\xbe".repeat(5)),
            ("bytes repeat", half.repeat(2)),
            ("too few", [b"my-secret-key".as_slice(), &[0xff; 32]].concat()),
            ("too few", [half, &[0; 16]].concat()),
            ("equal steps", (0x90..0xb0).rev().collect()),
            ("equal steps", (0..64).map(|n: u8| n.wrapping_mul(7)).collect()),
        ];
        for (weakness, key) in weak {
            assert!(refused(KeyRing::new([&key])).contains(weakness), "{weakness}: {key:?}");
            assert!(refused(KeyRing::from_hex(&hex(&key))).contains(weakness));
        }
    }

    #[test]
    fn short_missing_and_repeated_keys_are_refused() {
        assert!(refused(KeyRing::new([[0; 0]; 0])).contains("has no key"));
        assert!(
            refused(KeyRing::new([&key(1)[..], &key(2)[..31]])).contains("key 2 has 31 bytes, and needs at least 32")
        );
        assert!(refused(KeyRing::new([key(1), key(2), key(1)])).contains("key 3"));
        // Found by search: two keys with the same id. A look-up by id would never find the second.
        assert!(refused(KeyRing::new([key(99_437), key(112_683)])).contains("key 2"));
    }

    #[test]
    fn hex_keys_are_read_and_never_printed() {
        let (one, two) = (hex(&key(1)), hex(&key(2)).to_uppercase());
        let ring = KeyRing::from_hex(&format!("  {one} ,\t{two}\n")).unwrap();
        assert_eq!(ring.keys().sealing.id, KeyRing::new([key(1)]).unwrap().keys().sealing.id);
        assert_eq!(format!("{ring:?}"), "KeyRing { keys: 2 }");
        for text in ["".into(), format!("{one}a"), format!("{one},"), format!("{one} {two}"), one.replace('a', "g")] {
            let message = refused(KeyRing::from_hex(&text));
            assert!(!message.contains(&one[8..16]), "the message holds a key: {message}");
        }
    }

    #[test]
    fn error_names_the_environment_variable() {
        assert!(
            refused(KeyRing::from_env("NO_SUCH_KEYS"))
                .starts_with("the environment variable `NO_SUCH_KEYS` is not set")
        );
        // `PATH` is set in every test environment, and is never hex.
        assert!(refused(KeyRing::from_env("PATH")).starts_with("`PATH`: key 1 is not hex"));
    }

    #[test]
    fn replacement_reaches_all_clones() {
        let ring = KeyRing::new([key(1)]).unwrap();
        let (clone, before) = (ring.clone(), ring.keys());
        ring.replace([key(2), key(1)]).unwrap();
        refused(clone.replace([key(3), [0; 32]]));
        let after = clone.keys();
        assert_eq!((before.generation, after.generation, ring.keys().generation), (1, 2, 2));
        assert_eq!(after.find(before.sealing.id).map(|key| key.id != after.sealing.id), Some(true));
        assert!(before.find(after.sealing.id).is_none());
        ring.replace([key(2)]).unwrap();
        assert_eq!(clone.keys().generation, 3);
        assert!(clone.keys().find(before.sealing.id).is_none());
    }

    #[test]
    fn generated_keys_differ_and_are_zeroized() {
        fn wiped<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        let [one, other] = [KeyRing::generate(), KeyRing::generate()].map(|ring| ring.unwrap().keys());
        assert!(one.find(other.sealing.id).is_none());
        wiped(&one.sealing.cookie);
        wiped(&decode_hex("00").unwrap());
    }
}
