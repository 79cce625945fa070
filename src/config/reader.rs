//! The tree read into the typed config: a serde deserializer whose every error carries the key's
//! path, its place, what was expected and what was found, in words for people.
//!
//! A section or a list with nothing written in it is an empty one, as a file in which everything
//! below a key is commented out has it.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use serde::{
    de::{
        self, DeserializeSeed, EnumAccess, Expected, IntoDeserializer, MapAccess, SeqAccess,
        Unexpected, VariantAccess, Visitor,
    },
    forward_to_deserialize_any,
};

use super::{
    error::{Problem, nearest, one_of, quoted, shortened},
    source::{Key, Node, Place, Value},
};

/// Reads a node and everything below it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    node: &'a Node,
    path: Path<'a>,
}

/// What is wrong, and where once that is known.
#[derive(Debug)]
pub(super) struct Fault(Box<Details>);

#[derive(Debug)]
struct Details {
    message: String,
    at: Option<(String, Place)>,
}

/// The way from the root to a node.
#[derive(Debug, Clone, Copy)]
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl<'a> Reader<'a> {
    /// Reads from the root.
    pub(super) fn new(root: &'a Node) -> Self {
        Self { node: root, path: Path::Root }
    }

    /// Gives an error that has no place yet this one.
    fn at<T>(&self, result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|fault| fault.at(&self.path, &self.node.place))
    }

    fn mismatch(&self, expected: &str) -> Fault {
        let found = match &self.node.value {
            Value::Nothing => "nothing".to_owned(),
            Value::Text(text) => quoted(text),
            Value::List(_) => "a list".to_owned(),
            Value::Section(_) => "a section".to_owned(),
        };
        Fault::new(format!("expected {expected}, found {found}")).at(&self.path, &self.node.place)
    }

    fn number<T: FromStr + Display + Copy>(&self, least: T, most: T) -> Result<T, Fault> {
        let text = match &self.node.value {
            Value::Text(text) => text.as_str(),
            _ => "",
        };
        text.parse().map_err(|_| {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let out_of_range = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            let range =
                if out_of_range { format!(" from {least} to {most}") } else { String::new() };
            self.mismatch(&format!("a whole number{range}"))
        })
    }
}

impl Fault {
    fn new(message: String) -> Self {
        Self(Box::new(Details { message, at: None }))
    }

    fn at(mut self, path: &Path<'_>, place: &Place) -> Self {
        self.0.at.get_or_insert_with(|| (path.to_string(), place.clone()));
        self
    }

    /// What is wrong with which key, and where it stands.
    pub(super) fn into_problem(self) -> (Problem, Place) {
        let (path, place) = self.0.at.unwrap_or_else(|| (String::new(), Place::START));
        (Problem::new(&path, &self.0.message), place)
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {}", in_words(expected)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let hint = nearest(variant, expected)
            .map(|near| format!("; did you mean `{near}`?"))
            .unwrap_or_default();
        Self::new(format!("expected {}, found {}{hint}", one_of(expected), quoted(variant)))
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("unknown key; the keys here are {}", one_of(expected)))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("the key `{field}` is missing"))
    }
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Path::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ident,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.at(visitor.$visit(self.number($type::MIN, $type::MAX)?))
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Nothing => self.at(visitor.visit_unit()),
            Value::Text(text) => self.at(visitor.visit_str(text)),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Section(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.value {
            Value::Nothing => self.at(visitor.visit_none()),
            _ => self.at(visitor.visit_some(self)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.at(visitor.visit_newtype_struct(self))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Text(text) if text == "true" => self.at(visitor.visit_bool(true)),
            Value::Text(text) if text == "false" => self.at(visitor.visit_bool(false)),
            _ => Err(self.mismatch("`true` or `false`")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let expected = in_words(&visitor);
        match &self.node.value {
            // The standard library's own message for an address does not say what one looks like.
            Value::Text(text) if expected == ADDRESS => {
                visitor.visit_str::<Fault>(text).map_err(|_| self.mismatch(ADDRESS))
            }
            Value::Text(text) => self.at(visitor.visit_str(text)),
            _ => Err(self.mismatch(&expected)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let items: &[Node] = match &self.node.value {
            Value::List(items) => items,
            Value::Nothing => &[],
            _ => return Err(self.mismatch("a list")),
        };
        self.at(visitor.visit_seq(Items { items: items.iter(), next: 0, path: &self.path }))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_struct("", &[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let entries: &[(Key, Node)] = match &self.node.value {
            Value::Section(entries) => entries,
            Value::Nothing => &[],
            _ => {
                let expected = format!("a section with keys such as {}", one_of(known));
                return Err(self.mismatch(&expected));
            }
        };
        let entries = Entries { entries: entries.iter(), current: None, known, path: &self.path };
        self.at(visitor.visit_map(entries))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let (variant, content, place) = match &self.node.value {
            Value::Text(text) => (text.as_str(), None, &self.node.place),
            Value::Section(entries) => match entries.as_slice() {
                [(key, node)] => (key.name.as_str(), Some(node), &key.place),
                _ => {
                    let found = entries.len();
                    return Err(Fault::new(format!(
                        "expected exactly one of {}, found {found} keys",
                        one_of(variants)
                    ))
                    .at(&self.path, &self.node.place));
                }
            },
            _ => return Err(self.mismatch(&one_of(variants))),
        };
        let choice = Choice { variant, content, path: &self.path };
        visitor.visit_enum(choice).map_err(|fault| fault.at(&self.path, place))
    }

    numbers! {
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
        ignored_any
    }
}

/// The entries of a section, and the keys that are known in it.
struct Entries<'a> {
    entries: std::slice::Iter<'a, (Key, Node)>,
    current: Option<&'a (Key, Node)>,
    known: &'static [&'static str],
    path: &'a Path<'a>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.current = self.entries.next();
        let Some((key, _)) = self.current else { return Ok(None) };
        let name = key.name.as_str();
        seed.deserialize(name.into_deserializer()).map(Some).map_err(|fault: Fault| {
            let fault = match nearest(name, self.known) {
                Some(near) => Fault::new(format!("unknown key; did you mean `{near}`?")),
                None => fault,
            };
            fault.at(&Path::Key(self.path, &shortened(name)), &key.place)
        })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (key, node) = self
            .current
            .take()
            .ok_or_else(|| Fault::new("a value was asked for before its key".to_owned()))?;
        let reader = Reader { node, path: Path::Key(self.path, &key.name) };
        reader.at(seed.deserialize(reader))
    }
}

/// The items of a list.
struct Items<'a> {
    items: std::slice::Iter<'a, Node>,
    next: usize,
    path: &'a Path<'a>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.items.next() else { return Ok(None) };
        let reader = Reader { node, path: Path::Item(self.path, self.next) };
        self.next += 1;
        reader.at(seed.deserialize(reader)).map(Some)
    }
}

/// One of a closed set: a word, or a word with a value.
struct Choice<'a> {
    variant: &'a str,
    content: Option<&'a Node>,
    path: &'a Path<'a>,
}

impl<'de> EnumAccess<'de> for Choice<'_> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        Ok((seed.deserialize(self.variant.into_deserializer())?, self))
    }
}

impl<'de> VariantAccess<'de> for Choice<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.content {
            None => Ok(()),
            Some(_) => {
                Err(Fault::new(format!("`{0}` takes no value: write only `{0}`", self.variant)))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        let Some(node) = self.content else {
            return Err(Fault::new(format!(
                "`{0}` needs a value: write it as a section with the key `{0}`",
                self.variant
            )));
        };
        let reader = Reader { node, path: Path::Key(self.path, self.variant) };
        reader.at(seed.deserialize(reader))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        Err(de::Error::invalid_type(Unexpected::TupleVariant, &visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        Err(de::Error::invalid_type(Unexpected::StructVariant, &visitor))
    }
}

/// What serde's visitors expect, without its words for types.
fn in_words(expected: &dyn Expected) -> String {
    match expected.to_string().as_str() {
        "a string" | "path string" => "a single value".to_owned(),
        "socket address" => ADDRESS.to_owned(),
        other => other.to_owned(),
    }
}

const ADDRESS: &str = "an IP address and a port, as `0.0.0.0:8443` or `[::]:8443`";
