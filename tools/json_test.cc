#include "tools/json.h"

#include <string>

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stagefs::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

TEST(JsonTest, WhatIsWrittenIsReadBack) {
  JsonWriter writer;
  writer.Text("name", "a \"b\"\\\n\x01/ü");
  writer.Number("big", uint64_t{18446744073709551615u});
  writer.Number("small", int64_t{-5});
  writer.Bool("yes", true);
  const auto members = ParseFlatJson(writer.Finish());
  ASSERT_TRUE(members.ok()) << members.status();
  EXPECT_THAT(*members, ElementsAre(Pair("name", "a \"b\"\\\n\x01/ü"), Pair("big", "18446744073709551615"),
                                    Pair("small", "-5"), Pair("yes", "true")));
}

TEST(JsonTest, ObjectsAndNumbersNest) {
  JsonWriter inner, outer;
  inner.Text("text", "two\nlines");
  inner.Number("half", 0.5);
  outer.Numbers("numbers", {1, 2.25, 1e9, 0.0 / 0.0});
  outer.Objects("objects", {inner, inner});
  outer.Objects("none", {});
  EXPECT_EQ(absl::StrReplaceAll(outer.Finish(), {{" ", ""}, {"\n", ""}}),
            "{\"numbers\":[1,2.25,1e+09,null],"
            "\"objects\":[{\"text\":\"two\\u000alines\",\"half\":0.5},{\"text\":\"two\\u000alines\",\"half\":0.5}],"
            "\"none\":[]}");
}

TEST(JsonTest, EmptyObject) { EXPECT_TRUE(ParseFlatJson(" { } ").value().empty()); }

TEST(JsonTest, AnythingElseIsRefused) {
  for (const char* bad : {"", "[]", "{", "{\"a\"}", "{\"a\":}", "{\"a\":1", "{\"a\":{}}", "{\"a\":[1]}", "{\"a\":\"b}",
                          "{\"a\":\"\\q\"}", "{\"a\":1 \"b\":2}"}) {
    EXPECT_EQ(ParseFlatJson(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace stagefs::tools
