//! Names: what is read prints as it reads, and travels as it is.

use slim_proto::message::wire::{self, Wire as _};
use slim_proto::name::{InstanceId, Name, NameError, component_hash};

/// Input: the text of a name; the bytes of one on the wire as well.
pub fn name(input: &[u8]) {
    if let Ok(encoded) = wire::Name::decode(input) {
        let strings = encoded.str_name.is_some();
        let name = Name::from_wire(&encoded);
        assert_eq!(name.is_some(), strings);
        if let Some(name) = name {
            check(&name);
        }
    }
    let text = String::from_utf8_lossy(input);
    match text.parse::<Name>() {
        Ok(name) => {
            for part in [name.organization(), name.namespace(), name.service()] {
                assert!(!part.is_empty() && part.trim() == part && !part.contains('/'));
            }
            assert_eq!(name.to_string().parse().as_ref(), Ok(&name));
            check(&name);
        }
        Err(why) => {
            assert!(why.to_string().len() < 400, "a text for people");
            match why {
                NameError::Parts { parts } => assert!(!(3..=4).contains(&parts)),
                NameError::EmptyPart { index } => assert!(index <= text.matches('/').count()),
                NameError::Id { .. } => assert_eq!(text.matches('/').count(), 3),
            }
        }
    }
    if let Ok(id) = text.parse::<InstanceId>() {
        let canonical = if id.is_null() {
            "NULL_COMPONENT".to_owned()
        } else {
            text.to_lowercase()
        };
        assert_eq!(id.to_string(), canonical);
        assert_eq!(canonical.parse(), Ok(id));
        let (high, low) = id.halves();
        assert_eq!(InstanceId::from_halves(high, low), id);
        assert_eq!(InstanceId::new(id.value()), id);
        assert_eq!(id.is_reserved(), id.value() >= u128::MAX - 50);
    }
    // The hash that ends in a byte no UTF-8 has: parts run together hash differently.
    assert_eq!(component_hash(&text), component_hash(&text.clone()));
}

fn check(name: &Name) {
    let wire = name.to_wire();
    assert_eq!(Name::from_wire(&wire).as_ref(), Some(name));
    let decoded = wire::Name::decode(&wire.encode_to_vec()[..]);
    assert_eq!(decoded.as_ref(), Ok(&wire));
    let route = name.route_name();
    let hashes = [name.organization(), name.namespace(), name.service()].map(component_hash);
    assert_eq!(route.prefix, hashes);
    assert_eq!(route.id, name.id());
}
