#include "fs/dsa/proof.h"

#include <cstdio>
#include <set>

#include "gtest/gtest.h"

namespace stagefs::dsa {
namespace {

using Bytes = std::array<uint8_t, 32>;

Bytes Filled(uint8_t value) {
  Bytes bytes;
  bytes.fill(value);
  return bytes;
}

Bytes Proof(const Bytes& key, std::string_view label, const Bytes& client, const Bytes& server, std::string_view name) {
  return ComputeProof(key, label, client.data(), server.data(), name);
}

TEST(ProofTest, EverythingThatGoesInMakesADifference) {
  const std::set<Bytes> proofs = {
      Proof(Filled(1), kClientProofLabel, Filled(2), Filled(3), "k"),
      Proof(Filled(9), kClientProofLabel, Filled(2), Filled(3), "k"),
      Proof(Filled(1), kServerProofLabel, Filled(2), Filled(3), "k"),
      Proof(Filled(1), kClientProofLabel, Filled(9), Filled(3), "k"),
      Proof(Filled(1), kClientProofLabel, Filled(2), Filled(9), "k"),
      Proof(Filled(1), kClientProofLabel, Filled(3), Filled(2), "k"),
      Proof(Filled(1), kClientProofLabel, Filled(2), Filled(3), "kk"),
      Proof(Filled(1), kClientProofLabel, Filled(2), Filled(3), ""),
  };
  EXPECT_EQ(proofs.size(), 8u);
}

// What older clients and servers have computed; the number comes from another implementation of HMAC-SHA-512.
TEST(ProofTest, AProofStaysWhatItIs) {
  const Bytes proof = Proof(Filled(1), kClientProofLabel, Filled(2), Filled(3), "backup");
  char text[65] = {};
  for (size_t i = 0; i < proof.size(); ++i) snprintf(text + 2 * i, 3, "%02x", proof[i]);
  EXPECT_STREQ(text, "6202e9a1c1edd661fb3a203a99b3dbcd39887a684e71bf3d0ff0083fe130afc1");
}

TEST(ProofTest, OneBitOfDifferenceIsSeen) {
  const Bytes proof = Filled(7);
  for (size_t bit = 0; bit < 256; ++bit) {
    Bytes other = proof;
    other[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    EXPECT_FALSE(SameProof(proof, other.data()));
  }
  EXPECT_TRUE(SameProof(proof, Filled(7).data()));
}

TEST(ProofTest, NoncesDiffer) {
  Bytes first = {}, second = {};
  MakeNonce(first.data());
  MakeNonce(second.data());
  EXPECT_NE(first, second);
}

}  // namespace
}  // namespace stagefs::dsa
