#include "core/text/printable.h"

#include <gtest/gtest.h>

namespace headway {
namespace {

TEST(Printable, ControlCharactersBecomeEscapesAndTheRestStays) {
  EXPECT_EQ(printable("a\x1b[31m\n\tb\x7f"), "a\\x1b[31m\\x0a\\x09b\\x7f");
  EXPECT_EQ(printable_lines("a\x1b]0;x\x07\n\tb\r"), "a\\x1b]0;x\\x07\n\tb\\x0d");
  EXPECT_EQ(printable("\xc2\x9b"
                      "31m"),
            "\\x9b31m");
  EXPECT_EQ(printable("na\xc3\xafve \xce\xbb \xc2\xa0"), "na\xc3\xafve \xce\xbb \xc2\xa0");
  EXPECT_EQ(printable(std::string_view("\0\xc2", 2)), "\\x00\xc2");
}

}  // namespace
}  // namespace headway
