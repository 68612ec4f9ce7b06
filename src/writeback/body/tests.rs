//! Bodies that the parser accepts or refuses, and numbers that a type keeps or loses.

use serde::{Deserialize, Serialize, de};
use serde_json::{Value, from_str, to_vec};

use super::*;

fn code(body: impl AsRef<[u8]>) -> &'static str {
    Posted::parse(body.as_ref()).err().map_or("accepted", |refusal| refusal.code)
}

/// Checks the code of each of `bodies`, which bars and line ends separate.
fn assert_code(expected: &str, bodies: &str) {
    bodies.split(['|', '\n']).for_each(|body| assert_eq!(code(body.trim()), expected, "{body}"));
}

#[test]
fn values_stay_raw_and_in_order() {
    let body = r#" { "z" : [1, {"z":-0}] , "\u0061b":"\ud83d\ude00" ,"":null} "#;
    let Ok(Posted::Values(values)) = Posted::parse(body.as_bytes()) else { panic!("refused") };
    assert!(matches!(values[..], [(Cow::Borrowed("z"), _), (Cow::Owned(_), _), (Cow::Borrowed(""), _)]));
    let values: Vec<_> = values.iter().map(|(name, raw)| (&**name, raw.get())).collect();
    assert_eq!(values, [("z", r#"[1, {"z":-0}]"#), ("ab", r#""\ud83d\ude00""#), ("", "null")]);
    assert_code("accepted", r#"{} | {"__proto__":1,"relay":{"$relay":2}}"#);
}

#[test]
fn relay_token_excludes_other_names() {
    for body in [r#"{"$relay":"t/ok"}"#, r#"{"\u0024relay":"t\u002fok"}"#] {
        assert!(matches!(Posted::parse(body.as_bytes()), Ok(Posted::Relay(token)) if token == "t/ok"));
    }
    assert_code("relay_not_alone", r#"{"$relay":"t","a":1} | {"a":1,"\u0024relay":"t"}"#);
    assert_code("relay_not_a_string", r#"{"$relay":1} | {"$relay":null} | {"$relay":["t"]} | {"$relay":{"t":1}}"#);
}

#[test]
fn duplicate_names_are_refused() {
    assert_code("duplicate_name", r#"{"a":1,"a":1} | {"a":1,"b":2,"\u0061":3} | {"a":{"b":1,"b":2}}"#);
    assert_code("duplicate_name", r#"{"a":[[{"b":{"":1,"c":0,"":2}}]]} | {"$relay":"t","$relay":"t"}"#);
    assert_code("accepted", r#"{"a":{"a":[{"a":1},{"a":1}]},"A":1}"#);
}

#[test]
fn object_is_not_read_from_a_string() {
    let text = r#"{"$serde_json::private::RawValue":"{\"b\":1,\"b\":2}"}"#;
    assert_eq!(
        from_str::<Value>(text).unwrap().to_string(),
        r#"{"b":2}"#,
        "serde_json would read an object from the string"
    );
    assert_code("reserved_name", &[text, &text.replace('$', r"\u0024"), &format!(r#"{{"a":[{text}]}}"#)].join("|"));
}

#[test]
fn serde_json_names_are_reserved() {
    assert_code("reserved_name", r#"{"a":{"$serde_json::private::Number":"9007199254740993"}}"#);
    assert_code("reserved_name", r#"{"\u0024serde_json::private::Number":"1e999"} | {"$serde_json::private::":1}"#);
    assert_code("accepted", r#"{"$serde_json":1,"a":"$serde_json::private::Number"}"#);
}

#[test]
fn numbers_beyond_double_range_are_refused() {
    assert_code("malformed_json", r#"{"a":1e999} | {"a":[{"b":-1e309}]} | {"a":1.8e308} | {"a":2E+308}"#);
    assert_code("malformed_json", &format!(r#"{{"a":1{}}} | {{"a":-}} | {{"a":1e}} | {{"a":-01}}"#, "0".repeat(309)));
    assert_code("accepted", r#"{"a":[1.7976931348623157e308,-1E-999,5e-324,-0,0.0,18446744073709551616,1e+2]}"#);
}

#[test]
fn depth_and_name_count_are_limited() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
    assert_code("accepted", &nested(16));
    assert_code("too_deep", &[nested(17), nested(100_000), "[".repeat(16 << 10)].join("|"));
    assert_code("accepted", r#"{"a":"[[[[[[[[[[[[[[[[[\"[[","b":[[[[[[[[[]]]]]]]]],"c":[[[[[[[[[]]]]]]]]]}"#);

    let names = |count| (0..count).map(|n| format!(r#""n{n}":{n}"#)).collect::<Vec<_>>().join(",");
    assert_code("accepted", &format!("{{{}}}", names(64)));
    assert_code("too_many_names", &format!("{{{}}} | {{{}}}", names(65), names(1_000)));
    assert_code("accepted", &format!(r#"{{"a":{{{}}}}}"#, names(1_000)));
}

#[test]
fn invalid_json_is_refused() {
    let refused = r#" | { | {}{} | {} x | {"a":1,} | {,} | {a:1} | {'a':1} | {1:1} | /**/{} | {"a":"b}
        {"a":NaN} | {"a":Infinity} | {"a":-Infinity} | {"a":1e400} | {"a":[-1e999]} | {"a":-} | {"a":True}
        {"a":01} | {"a":+1} | {"a":.5} | {"a":1.} | {"a":0x1} | {"a":"\x"} | {"a":"\u12"} | {"a":"\u12g4"}
        {"a":"\ud800"} | {"a":"\udc00\ud800"} | {"a":[{"b":"\udfff"}]} | {"\ud800":1} | {"a":{"\udead":1}}"#;
    assert_code("malformed_json", refused);
    assert_code("malformed_json", "\u{feff}{}|{}\u{feff}|{}\0|{\"a\":\"\t\"}|{\"a\":\"\0\"}|{\u{a0}}");
    let not_utf8 = b"{\"a\":\"\xff\"} {\"\xc3\":1} {\"a\":\"\xed\xa0\x80\"} {}\xff \xfe\xff\0{\0}";
    not_utf8.split(|byte| *byte == b' ').for_each(|body| assert_eq!(code(body), "malformed_json", "{body:x?}"));
    assert_code("not_an_object", r#"[] | [{"a":1}] | null | true | "a" | 1 | -1.5"#);
}

const GOOD: &str = r#"{"a":[1,-2.5e3,{"b":"\u00e9\ud83d\ude00\"","c":[null,true]}],"ü":"x","n":9007199254740993}"#;

#[test]
fn truncated_bodies_are_refused() {
    assert_eq!(code(GOOD), "accepted");
    (0..GOOD.len()).for_each(|end| assert_eq!(code(&GOOD.as_bytes()[..end]), "malformed_json", "cut at {end}"));
}

/// No body makes the parser panic, and an ordinary parser reads the same values from an accepted body.
#[test]
fn mutated_bodies_have_one_meaning() {
    let seeds = [GOOD, r#"{"$relay":"AbC-_09"}"#, r#"{"a":{"a":[[[[[[[[[[[[[0]]]]]]]]]]]]]},"b":{"c":1,"d":2}}"#];
    let scraps = b"\"a\":1,\"a\":{}[{[[,\\ud800\\u0061$relay:9-e9\xff\0\xef\xbb\xbf\"\"\\\\";
    let mut state = 0x5eed_u64;
    let mut random = |below: usize| {
        // SplitMix64, for the same bodies on every run.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % below
    };
    let mut codes = HashSet::new();
    for _ in 0..200_000 {
        let mut body = seeds[random(seeds.len())].as_bytes().to_vec();
        for _ in 0..=random(3) {
            let (at, from) = (random(body.len() + 1), random(scraps.len()));
            let (end, to) = ((at + random(4)).min(body.len()), (from + random(8)).min(scraps.len()));
            body.splice(at..end, scraps[from..to].iter().copied());
        }
        codes.insert(code(&body));
        let text = String::from_utf8_lossy(&body);
        integers_survive(&text, &body);
        let Ok(Posted::Values(values)) = Posted::parse(&body) else { continue };
        let plain: serde_json::Map<String, Value> = from_str(&text).unwrap();
        assert_eq!(values.len(), plain.len(), "{text}");
        values.iter().for_each(|(name, raw)| assert_eq!(plain[&**name], from_str::<Value>(raw.get()).unwrap()));
    }
    assert!(codes.contains("accepted") && codes.len() >= 5, "the mutations reach too few results: {codes:?}");
}

#[test]
fn lost_integer_precision_is_detected() {
    fn survives<T: Serialize + de::DeserializeOwned>(raw: &str) -> bool {
        integers_survive(raw, &to_vec(&from_str::<T>(raw).unwrap()).unwrap())
    }
    #[derive(Serialize, Deserialize)]
    struct Known {
        a: i64,
    }
    let text = r#"{"1,9007199254740993,":[9007199254740991,-9007199254740991,-0,1e300,9007199254740993.0],
        "\"":9007199254740993E0,"":["\\",-9007199254740992 ,9007199254740992,18446744073709551616,-1e999]}"#;
    let found: Vec<_> = unsafe_numbers(text).collect();
    assert_eq!(found, ["-9007199254740992", "9007199254740992", "18446744073709551616", "-1e999"]);
    assert!(survives::<i64>("9007199254740993") && survives::<i64>("-9007199254740993"));
    assert!(survives::<u64>("18446744073709551615") && !survives::<f64>("18446744073709551616"));
    assert!(!survives::<f64>("9007199254740993") && survives::<f64>("9007199254740991"));
    assert!(!survives::<f64>("9007199254740992"), "a double holds 2^53, but also the rounded 2^53 + 1");
    assert!(survives::<f64>("9007199254740993.0") && survives::<f64>("-0"));
    assert!(survives::<Value>(r#"{"b":9007199254740995,"a":[9007199254740997,9007199254740993]}"#), "in any order");
    assert!(!survives::<Known>(r#"{"a":1,"b":9007199254740993}"#), "an unknown field loses its number");
    assert!(
        !survives::<(f64, i64)>("[9007199254740993,9007199254740993]"),
        "the integer survives in a single place of two"
    );
    assert!(!integers_survive("9007199254740993", b"[\"9007199254740993\",9007199254740995]"));
}
