// How much of the unrelated text each group of the gate may open for, where all of them together may open for so much.
#pragma once

#include <span>
#include <vector>

namespace pointsman {

// m_t of one group's evidence (memory/routing_tables.h), a token each, ascending.
struct GroupMeans {
  std::vector<double> unrelated;  // of general text
  std::vector<double> own;        // of held-out text of the group
};

// A part of `share` (0..1, of the unrelated tokens) for each group, in steps of kShareStep and kMostShare at most;
// their sum is at most `share`. A step goes where it opens the largest part of a group's text, however much there is of
// it: by the slopes of the concave majorant of what each opens. More to divide leaves nobody with less.
std::vector<double> DivideShare(double share, std::span<const GroupMeans> means);
inline constexpr double kShareStep = 0.0005, kMostShare = 0.2;

}  // namespace pointsman
