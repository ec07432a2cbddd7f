//! Key agreement: X25519, with ML-KEM-768 on top where the dialer asks for it (dataplane 5.4).

use hkdf::Hkdf;
use ml_kem::kem::{Decapsulate as _, Encapsulate as _, Kem as _, KeyExport as _};
use ml_kem::{MlKem768, array::Array};
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};

const INFO_CLASSICAL: &[u8] = b"SLIM-DP-inter-node-hmac-v1";
const INFO_HYBRID: &[u8] = b"SLIM-DP-inter-node-hmac-v1-pq";

/// Bytes of an X25519 public key.
pub(super) const PUBLIC_KEY_BYTES: usize = 32;
/// Bytes of an ML-KEM-768 encapsulation key (FIPS 203, table 3).
pub(super) const ENCAPSULATION_KEY_BYTES: usize = 1184;
/// Bytes of an ML-KEM-768 ciphertext.
pub(super) const CIPHERTEXT_BYTES: usize = 1088;

/// The key of one link, for both directions. It lives as long as the link and is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkKey([u8; 32]);

impl LinkKey {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// HKDF over what the two sides share, salted with the link's id.
    ///
    /// - `kem`: the ML-KEM secret, in a hybrid agreement.
    pub(super) fn derive(link_id: &str, shared: &[u8; 32], kem: Option<&[u8; 32]>) -> Self {
        let mut ikm = [0u8; 64];
        ikm[..32].copy_from_slice(shared);
        let (ikm, info) = match kem {
            Some(kem) => {
                ikm[32..].copy_from_slice(kem);
                (&ikm[..], INFO_HYBRID)
            }
            None => (&ikm[..32], INFO_CLASSICAL),
        };
        let mut key = [0u8; 32];
        Hkdf::<Sha256>::new(Some(link_id.as_bytes()), ikm)
            .expand(info, &mut key)
            .expect("32 bytes are less than HKDF's limit of 255 blocks");
        Self(key)
    }
}

impl std::fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkKey(..)")
    }
}

/// Why two sides have no key in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgreementError {
    #[error("public key is {bytes} bytes long, not {PUBLIC_KEY_BYTES}")]
    PublicKeyLength { bytes: usize },
    #[error("public key is of low order")]
    LowOrder,
    #[error("ML-KEM payload is {bytes} bytes long, not {expected}")]
    KemLength { bytes: usize, expected: usize },
    #[error("ML-KEM encapsulation key is not canonical")]
    KemKey,
    #[error("no random numbers from the system")]
    Entropy,
}

/// Our half of an X25519 exchange, good for one link.
pub(super) struct Secret(StaticSecret);

impl Secret {
    pub fn random() -> Result<Self, AgreementError> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(|_| AgreementError::Entropy)?;
        Ok(Self::from_bytes(bytes))
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    pub fn public_key(&self) -> [u8; PUBLIC_KEY_BYTES] {
        PublicKey::from(&self.0).to_bytes()
    }

    pub fn agree(&self, peer: &[u8]) -> Result<[u8; 32], AgreementError> {
        let peer: [u8; PUBLIC_KEY_BYTES] = peer
            .try_into()
            .map_err(|_| AgreementError::PublicKeyLength { bytes: peer.len() })?;
        let shared = self.0.diffie_hellman(&PublicKey::from(peer));
        // A low-order point makes the result the same whatever our secret is.
        if shared.was_contributory() {
            Ok(shared.to_bytes())
        } else {
            Err(AgreementError::LowOrder)
        }
    }
}

/// The acceptor's side of ML-KEM: returns the ciphertext for the dialer and the shared secret.
pub(super) fn encapsulate(encapsulation_key: &[u8]) -> Result<(Vec<u8>, [u8; 32]), AgreementError> {
    let bytes = encapsulation_key.len();
    let key = Array::try_from(encapsulation_key).map_err(|_| AgreementError::KemLength {
        bytes,
        expected: ENCAPSULATION_KEY_BYTES,
    })?;
    let key =
        ml_kem::ml_kem_768::EncapsulationKey::new(&key).map_err(|_| AgreementError::KemKey)?;
    let (ciphertext, shared) = key.encapsulate();
    Ok((ciphertext.to_vec(), shared.into()))
}

/// The dialer's side of ML-KEM, good for one link.
pub(super) struct KemSecret(Box<ml_kem::ml_kem_768::DecapsulationKey>);

impl KemSecret {
    /// Returns the encapsulation key for the acceptor with it.
    pub fn random() -> (Self, Vec<u8>) {
        let (secret, key) = MlKem768::generate_keypair();
        (Self(Box::new(secret)), key.to_bytes().to_vec())
    }

    pub fn decapsulate(&self, ciphertext: &[u8]) -> Result<[u8; 32], AgreementError> {
        let bytes = ciphertext.len();
        let shared =
            self.0
                .decapsulate_slice(ciphertext)
                .map_err(|_| AgreementError::KemLength {
                    bytes,
                    expected: CIPHERTEXT_BYTES,
                })?;
        Ok(shared.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK_ID: &str = "00000000-0000-4000-8000-000000000001";

    fn hex32(text: &str) -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    /// dataplane 11.3.
    #[test]
    fn the_published_key_derivations_hold() {
        let dialer = Secret::from_bytes(std::array::from_fn(|i| i as u8 + 0x01));
        let acceptor = Secret::from_bytes(std::array::from_fn(|i| i as u8 + 0x41));
        let dialer_public =
            hex32("07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c");
        let acceptor_public =
            hex32("64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466");
        assert_eq!(dialer.public_key(), dialer_public);
        assert_eq!(acceptor.public_key(), acceptor_public);
        let shared = hex32("26c2c17fdb82161cb21ad16e721315355b64d1763119b10bfc962530dc7cc163");
        assert_eq!(dialer.agree(&acceptor_public), Ok(shared));
        assert_eq!(acceptor.agree(&dialer_public), Ok(shared));
        assert_eq!(
            LinkKey::derive(LINK_ID, &shared, None).bytes(),
            &hex32("4d75a6d9955cf4a8cfe7f09e79b455d1da8a8581ea99663aca407eaf7c3e2aac")
        );
        let kem = std::array::from_fn(|i| i as u8 + 0xA0);
        assert_eq!(
            LinkKey::derive(LINK_ID, &shared, Some(&kem)).bytes(),
            &hex32("b378e5cf2707625a3482876e76f2cb908c65301f621e77438e44a50bcd72e4eb")
        );
    }

    #[test]
    fn low_order_and_short_public_keys_are_refused() {
        let secret = Secret::from_bytes([7; 32]);
        let mut one = [0u8; 32];
        one[0] = 1;
        // RFC 7748 section 6.1: the points 0 and 1, and one of order 8.
        let order_eight = hex32("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800");
        for point in [[0; 32], one, order_eight] {
            assert_eq!(secret.agree(&point), Err(AgreementError::LowOrder));
        }
        for bytes in [0, 31, 33] {
            assert_eq!(
                secret.agree(&vec![9; bytes]),
                Err(AgreementError::PublicKeyLength { bytes })
            );
        }
    }

    #[test]
    fn both_sides_of_the_kem_share_one_secret() {
        let (secret, key) = KemSecret::random();
        assert_eq!(key.len(), ENCAPSULATION_KEY_BYTES);
        let (ciphertext, shared) = encapsulate(&key).unwrap();
        assert_eq!(ciphertext.len(), CIPHERTEXT_BYTES);
        assert_eq!(secret.decapsulate(&ciphertext), Ok(shared));
        assert!(secret.decapsulate(&ciphertext[1..]).is_err());
        assert_eq!(
            encapsulate(&key[1..]).err(),
            Some(AgreementError::KemLength {
                bytes: 1183,
                expected: ENCAPSULATION_KEY_BYTES
            })
        );
        // A coefficient of 4095 is not below the modulus (FIPS 203, 7.2).
        assert_eq!(
            encapsulate(&[0xFF; ENCAPSULATION_KEY_BYTES]).err(),
            Some(AgreementError::KemKey)
        );
    }
}
