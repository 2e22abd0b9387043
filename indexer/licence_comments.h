// Licence and copyright notices in comments: the same in thousands of files, so they say nothing about what a file is.
#pragma once

#include <string>
#include <string_view>

namespace pointsman {

// `text` without the comments that mention a licence or a copyright, wherever they stand. A comment is /* ... */, <!--
// ... --> or a run of lines that start with //, # followed by a space, ;; or --. Text outside comments is kept, a
// LICENSE file too.
std::string WithoutLicenceComments(std::string_view text);

}  // namespace pointsman
