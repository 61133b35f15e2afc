#include "fs/dsa/proof.h"

#include <sodium.h>

#include "fs/dsa/protocol.h"

namespace stagefs::dsa {
namespace {

static_assert(kProofBytes == crypto_auth_hmacsha512256_BYTES);

void Add(crypto_auth_hmacsha512256_state* state, const void* bytes, size_t size) {
  (void)crypto_auth_hmacsha512256_update(state, static_cast<const unsigned char*>(bytes), size);
}

// With its length, so that no two messages run together.
void AddText(crypto_auth_hmacsha512256_state* state, std::string_view text) {
  const uint64_t size = text.size();
  Add(state, &size, sizeof(size));
  Add(state, text.data(), text.size());
}

}  // namespace

std::array<uint8_t, 32> ComputeProof(std::span<const uint8_t> key, std::string_view label,
                                     const uint8_t client_nonce[32], const uint8_t server_nonce[32],
                                     std::string_view key_name) {
  crypto_auth_hmacsha512256_state state;
  (void)crypto_auth_hmacsha512256_init(&state, key.data(), key.size());
  AddText(&state, label);
  Add(&state, &kVersion, sizeof(kVersion));
  AddText(&state, key_name);
  Add(&state, client_nonce, kNonceBytes);
  Add(&state, server_nonce, kNonceBytes);
  std::array<uint8_t, 32> proof;
  (void)crypto_auth_hmacsha512256_final(&state, proof.data());
  sodium_memzero(&state, sizeof(state));
  return proof;
}

bool SameProof(const std::array<uint8_t, 32>& proof, const uint8_t other[32]) {
  return sodium_memcmp(proof.data(), other, proof.size()) == 0;
}

void MakeNonce(uint8_t nonce[32]) { randombytes_buf(nonce, kNonceBytes); }

}  // namespace stagefs::dsa
