// Proofs of a key: how client and server of a TCP connection show each other that they have the same key, without
// sending it. docs/direct-access.md#keys.
//
// Each side sends a nonce of its own; the proofs are HMACs over both, so none of another connection is of use here. The
// labels differ, so no side can be made to answer with the other's proof. What follows on the connection is neither
// secret nor signed: who can change packets on their way can do so.
//
// Part of libstagefs: the standard library and libsodium alone.

#ifndef STAGEFS_FS_DSA_PROOF_H_
#define STAGEFS_FS_DSA_PROOF_H_

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace stagefs::dsa {

inline constexpr size_t kKeyBytes = 32;
inline constexpr std::string_view kClientProofLabel = "stagefs dsa client 1";
inline constexpr std::string_view kServerProofLabel = "stagefs dsa server 1";

// HMAC-SHA-512-256 with `key` over the label, the version of the protocol, the name of the key and the nonces.
// Thread-safe.
std::array<uint8_t, 32> ComputeProof(std::span<const uint8_t> key, std::string_view label,
                                     const uint8_t client_nonce[32], const uint8_t server_nonce[32],
                                     std::string_view key_name);

// Whether they are the same; takes as long when they are not.
bool SameProof(const std::array<uint8_t, 32>& proof, const uint8_t other[32]);

// Fills `nonce` from the kernel's generator.
void MakeNonce(uint8_t nonce[32]);

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_PROOF_H_
