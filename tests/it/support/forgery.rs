//! Forgeries of genuine tokens of all four purposes: other bits, pieces, joints, spellings, prefixes. The fuzz targets
//! use the forgeries too.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const PREFIXES: [&str; 14] =
    ["R.", "B.", "T.", "c.", ".", "r", "t", "r..", "r.b.", "b.r.", "t.r.", "r.t.", " r.", " t."];
/// The prefixes of relay, birth and turn tokens. A cookie has no prefix.
pub(crate) const PURPOSES: [&str; 4] = ["r.", "b.", "t.", ""];
/// The places in a token's bytes where the key's id, the session's id, the nonce and the payload begin.
const FIELDS: [usize; 4] = [1, 5, 37, 61];
const TAG_LEN: usize = 16;

/// The prefix of a token, and the sealed text.
pub(crate) fn parts(token: &str) -> (&str, &str) {
    token.split_at(token.find('.').map_or(0, |point| point + 1))
}

/// Changes a token once. Four bytes choose the change and the place. The result may still be a genuine token: a joint
/// of two tokens can give either token whole.
pub(crate) fn forge(token: &str, genuine: &[String], [how, high, low, with]: [u8; 4]) -> String {
    let mut chars: Vec<char> = token.chars().collect();
    let place = usize::from(u16::from_be_bytes([high, low]));
    let at = place % chars.len().max(1);
    let other_case = |char: &mut char| match char.is_ascii_lowercase() {
        true => char.make_ascii_uppercase(),
        false => char.make_ascii_lowercase(),
    };
    match how % 16 {
        0 => chars.get_mut(at).into_iter().for_each(|char| *char = char::from(*char as u8 ^ 1 << (with % 7))),
        1 => return flip_sealed(token, place, with),
        2 => chars.truncate(at),
        3 => drop(chars.drain(..at)),
        4 if at < chars.len() => drop(chars.remove(at)),
        4 => {}
        5 => chars.insert(at, char::from(with)),
        6 => chars.push(char::from(with)),
        7 => chars.extend_from_within(at..),
        8 => return format!("{}{}", PREFIXES[usize::from(with) % PREFIXES.len()], parts(token).1),
        9 => chars.get_mut(at).into_iter().for_each(other_case),
        10 => chars[at..].iter_mut().for_each(other_case),
        11 => {
            let other = &genuine[usize::from(with) % genuine.len()];
            chars.truncate(at);
            chars.extend(other.chars().skip(at));
        }
        // Changes the unused bits of the last base64 character, if there are any: a lenient decoder gets the same bytes.
        12 => chars.last_mut().into_iter().for_each(|last| {
            let number = ALPHABET.iter().position(|char| char::from(*char) == *last).unwrap_or(0);
            *last = char::from(ALPHABET[number ^ usize::from(1 + with % 15)]);
        }),
        13 => match with % 4 {
            0 => chars.push('='),
            1 => chars.extend("==".chars()),
            2 => chars.extend("\r\n".chars()),
            _ => return token.replace('-', "+").replace('_', "/"),
        },
        14 => {
            let (prefix, sealed) = parts(token);
            let others: Vec<_> = PURPOSES.iter().filter(|other| **other != prefix).collect();
            return format!("{}{sealed}", others[usize::from(with) % others.len()]);
        }
        _ => return join_sealed(token, &genuine[usize::from(with) % genuine.len()], place),
    }
    chars.into_iter().collect()
}

/// Flips a bit of the decoded bytes, so that the result is spelt correctly.
fn flip_sealed(token: &str, place: usize, bit: u8) -> String {
    let (prefix, sealed) = parts(token);
    let Ok(mut bytes) = URL_SAFE_NO_PAD.decode(sealed) else { return token.to_owned() };
    let Some(at) = place.checked_rem(bytes.len()) else { return token.to_owned() };
    bytes[at] ^= 1 << (bit % 8);
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// Joins the first fields of a token with the later fields of another: the id of one session with the payload of
/// another, for instance.
fn join_sealed(token: &str, other: &str, place: usize) -> String {
    let ((prefix, head), (_, tail)) = (parts(token), parts(other));
    let (Ok(mut head), Ok(tail)) = (URL_SAFE_NO_PAD.decode(head), URL_SAFE_NO_PAD.decode(tail)) else {
        return token.to_owned();
    };
    match FIELDS.get(place % (FIELDS.len() + 1)) {
        Some(at) => {
            head.truncate(*at);
            head.extend(tail.iter().skip(*at));
        }
        None => {
            head.truncate(head.len().saturating_sub(TAG_LEN));
            head.extend(&tail[tail.len().saturating_sub(TAG_LEN)..]);
        }
    }
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(head))
}
