//! Headers and refusals; what needs a stream is tested from outside.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Uri};

use super::refusal::Refusal;
use super::{Origin, class, headers, target};

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
    };
    let mut headers = HeaderMap::new();
    for (name, value) in fields.iter().map(field) {
        headers.append(name, value);
    }
    headers
}

fn passed(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = map(fields);
    let origin = Origin { client: "192.0.2.7:5".parse().unwrap(), scheme: "https" };
    headers::to_upstream(&mut headers, origin);
    headers
}

#[test]
fn moorline_alone_says_who_the_client_is() {
    let own = passed(&[("host", "example.com:8443")]);
    let expected = map(&[
        ("host", "example.com:8443"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-host", "example.com:8443"),
        ("x-forwarded-proto", "https"),
        ("x-real-ip", "192.0.2.7"),
        ("forwarded", "for=192.0.2.7;host=\"example.com:8443\";proto=https"),
        ("via", "1.1 moorline"),
    ]);
    assert_eq!(own, expected);
    for forged in [
        "X-Forwarded-For",
        "x_forwarded_for",
        "X-Forwarded.Proto",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Real-IP",
        "x_real_ip",
        "Forwarded",
        "Moorline-Secret",
        "moorline_secret",
        "ce-type",
        "CE_ID",
        "Grip-Sig",
        "grip!sig",
        "Meta-User",
        "Connection-Id",
        "connection_id",
        "Proxy",
        "SCRIPT_NAME",
        "Script-Name",
        "PATH_INFO",
        "X-Original-URL",
        "X_Rewrite_URL",
        "X-Script-Name",
        "Sec-WebSocket-Key",
        "Sec_WebSocket_Version",
        "Transfer_Encoding",
        "Content_Length",
        "Expect",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Upgrade",
        "HTTP2-Settings",
        "Proxy-Connection",
        "Proxy-Authorization",
    ] {
        let fields = [("host", "example.com:8443"), (forged, "forged"), (forged, "again")];
        assert_eq!(passed(&fields), expected, "{forged}");
        // Not even by having ours taken away.
        let connection = format!("close, {forged}, Host, Via");
        let fields = [("host", "example.com:8443"), ("connection", connection.as_str())];
        assert_eq!(passed(&fields), expected, "{forged}");
    }
}

#[test]
fn what_connection_lists_goes_and_all_else_stays() {
    let all = passed(&[
        ("host", "a"),
        ("connection", "close, x-hop ,, b@d"),
        ("connection", "X-Other"),
        ("x-hop", "1"),
        ("x-other", "2"),
        ("cookie", "a=b"),
        ("cookie", "c=d"),
        ("authorization", "Bearer x"),
        ("content-length", "0"),
        ("x-meta-data", "e"),
        ("cex", "f"),
        ("via", "1.0 other"),
    ]);
    for gone in ["connection", "x-hop", "x-other"] {
        assert!(!all.contains_key(gone), "{gone}");
    }
    for (name, values) in [
        ("cookie", vec!["a=b", "c=d"]),
        ("authorization", vec!["Bearer x"]),
        ("content-length", vec!["0"]),
        ("x-meta-data", vec!["e"]),
        ("cex", vec!["f"]),
        ("via", vec!["1.0 other", "1.1 moorline"]),
    ] {
        assert_eq!(all.get_all(name).iter().collect::<Vec<_>>(), values, "{name}");
    }
}

#[test]
fn ipv6_stands_in_brackets() {
    let mut headers = map(&[("host", "a")]);
    let origin = Origin { client: "[2001:db8::7]:5".parse().unwrap(), scheme: "http" };
    headers::to_upstream(&mut headers, origin);
    assert_eq!(headers["forwarded"], "for=\"[2001:db8::7]\";host=\"a\";proto=http");
    assert_eq!(headers["x-forwarded-for"], "2001:db8::7");
}

#[test]
fn what_is_not_taken_from_clients() {
    let refused = |name, value| headers::check(&map(&[("host", "a"), (name, value)]));
    for events in [
        "application/websocket-events",
        "Application/WebSocket-Events; charset=utf-8",
        "text/plain, application/websocket-events",
        "application/cloudevents+json",
        "application/CloudEvents-batch+json; charset=utf-8",
    ] {
        for name in ["content-type", "content_type", "Content.Type"] {
            assert_eq!(refused(name, events), Err(Refusal::MediaType), "{name}: {events}");
        }
    }
    assert_eq!(refused("content-type", "application/json"), Ok(()));
    assert_eq!(refused("expect", "100-Continue"), Ok(()));
    assert_eq!(refused("expect", "200-ok"), Err(Refusal::Expectation));
}

#[test]
fn an_answer_has_one_length_and_it_is_the_bodys() {
    let answered = |method: Method, status: u16, fields: &[(&str, &str)]| {
        let mut answer = Response::new(());
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        *answer.headers_mut() = map(fields);
        headers::to_client(&mut answer, &method);
        answer.into_parts().0.headers
    };
    let length = [("content-length", "5")];
    assert_eq!(answered(Method::HEAD, 200, &length), map(&length));
    assert!(answered(Method::GET, 200, &length).is_empty());
    for odd in [
        &[("content-length", "5"), ("transfer-encoding", "chunked")][..],
        &[("content-length", "5"), ("content-length", "5")],
        &[("content-length", "+5")],
        &[("connection", "upgrade, x-a"), ("upgrade", "h2c"), ("x-a", "b"), ("keep-alive", "c")],
        &[("transfer-encoding", "chunked"), ("trailer", "x"), ("proxy-connection", "close")],
    ] {
        assert!(answered(Method::HEAD, 200, odd).is_empty(), "{odd:?}");
    }
}

#[test]
fn only_the_path_and_query_of_a_target_count() {
    let path = |uri: &str| target(&uri.parse::<Uri>().unwrap()).map(|uri| uri.to_string());
    for (uri, path_and_query) in [
        ("/", "/"),
        ("/a?b=c", "/a?b=c"),
        ("//evil/a", "//evil/a"),
        ("http://evil/a", "/a"),
        ("http://evil", "/"),
        ("http://evil?a", "/?a"),
    ] {
        let expected = format!("http://upstream{path_and_query}");
        assert_eq!(path(uri), Ok(expected), "{uri}");
    }
    assert!(path("*").is_err());
    assert!(path("example.com:443").is_err());
}

#[test]
fn every_result_is_declared_once() {
    let all = [
        Refusal::BadRequest(""),
        Refusal::NotFound,
        Refusal::MediaType,
        Refusal::Expectation,
        Refusal::AddressRate,
        Refusal::SlowBody,
        Refusal::BrokenBody,
        Refusal::Full,
        Refusal::Unreachable,
        Refusal::ConnectTimeout,
        Refusal::Late,
        Refusal::Failed,
    ];
    assert_eq!(all.map(|refusal| refusal.result()), Refusal::RESULTS);
    assert_eq!(
        [200, 304, 404, 500, 600].map(|s| class(StatusCode::from_u16(s).unwrap())),
        ["2xx", "3xx", "4xx", "5xx", "5xx"]
    );
}
