//! The traps of dataplane 10, as this router behaves in them.

mod common;

use common::*;

#[test]
fn t1_headers_come_before_any_request_and_the_reply_before_anything_else() {
    let router = TestRouter::start(1);
    let mut client = router.connect();
    let name = name("app");
    let id = client.subscribe(&name);
    let mut other = router.connect();
    other.publish(&name, b"hello");
    client.expect_blob(b"hello");
    client.unsubscribe(&name, id);
}
