//! Compiles `schema/` with protox, so that no `protoc` is needed, and writes down the shape of each
//! message, which `route_header` validates against without decoding: two readings of one schema.

use std::fmt::Write as _;
use std::{env, fs, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=schema");
    let descriptors = protox::compile(["schema/dataplane.proto"], ["schema"])?;

    let mut shapes = String::new();
    for message in descriptors.file.iter().flat_map(|file| &file.message_type) {
        for nested in &message.nested_type {
            shape(
                &mut shapes,
                &format!("{}.{}", message.name(), nested.name()),
                &nested.field,
            )?;
        }
        shape(&mut shapes, message.name(), &message.field)?;
    }
    fs::write(Path::new(&env::var("OUT_DIR")?).join("shapes.rs"), shapes)?;

    prost_build::Config::new()
        // Ordered maps: the same message has the same bytes each time it is encoded.
        .btree_map(["."])
        .compile_fds(descriptors)?;
    Ok(())
}

/// Writes one `static` of type `Shape`: the fields by their number, which are dense in our schema.
fn shape(
    out: &mut String,
    name: &str,
    fields: &[prost_types::FieldDescriptorProto],
) -> std::fmt::Result {
    use prost_types::field_descriptor_proto::Type;

    let mut rows = vec![r#"Field { name: "", kind: FieldKind::Unknown }"#.to_owned()];
    for field in fields {
        let kind = match field.r#type() {
            Type::Uint32 | Type::Uint64 | Type::Bool | Type::Enum => "Varint".to_owned(),
            Type::Bytes => "Bytes".to_owned(),
            Type::String => "Text".to_owned(),
            Type::Message => {
                let target = field.type_name().trim_start_matches(".dataplane.proto.v1.");
                format!("Nested(&{})", static_name(target))
            }
            other => panic!(
                "{name}.{}: the validator has no rule for {other:?}",
                field.name()
            ),
        };
        let number = usize::try_from(field.number()).expect("field numbers are positive");
        if rows.len() <= number {
            rows.resize(number + 1, rows[0].clone());
        }
        rows[number] = format!(
            "Field {{ name: {:?}, kind: FieldKind::{kind} }}",
            field.name()
        );
    }
    writeln!(
        out,
        "#[allow(dead_code)]\npub(crate) static {}: Shape = Shape {{ fields: &[\n    {},\n] }};",
        static_name(name),
        rows.join(",\n    ")
    )
}

fn static_name(message: &str) -> String {
    let mut name = String::new();
    let mut after_lower = false;
    for c in message.chars() {
        if c.is_uppercase() && after_lower {
            name.push('_');
        }
        after_lower = c.is_lowercase();
        name.push(if c == '.' {
            '_'
        } else {
            c.to_ascii_uppercase()
        });
    }
    name
}
