// The report that the tests of its JSON, table and page share. Header-only; included by tests alone.
#pragma once

#include <gtest/gtest.h>

#include <limits>

#include "indexer/evaluation/report.h"

namespace pointsman {

// A report with every kind of variant, and absent figures in every place where they may be absent.
class AdoptedMemory : public testing::Test {
 protected:
  AdoptedMemory() {
    report_.verdict = Decision::kAdopt;
    report_.reason = "this memory makes the model better on your text by 0.2500 nats per token";
    report_.documents = 412;
    report_.tokens = 98304;
    report_.unrelated_documents = 120;
    report_.unrelated_tokens = 40960;
    report_.reference_documents = 310;
    report_.reference_tokens = 30000;
    report_.test_looks = 2;

    VariantScore frozen;
    frozen.name = "frozen";
    frozen.nll = 3.5;
    frozen.vs_memory = Interval{0.2, 0.3};
    frozen.damage = 0;
    frozen.untouched_tokens = frozen.identical_documents = 1;
    frozen.seconds_per_token = 0.0005;

    VariantScore memory = frozen;
    memory.name = "memory";
    memory.nll = 3.25;
    memory.gain = -0.25;
    memory.ci95 = Interval{-0.3, -0.2};
    memory.vs_memory.reset();
    memory.p = 0.0004;
    memory.share = 0.5;
    memory.damage = 0.00025;
    memory.damage_ci95 = Interval{-0.0005, 0.001};
    memory.worst = WorstSequence{0.125, 256};
    memory.untouched_tokens = 0.96875;
    memory.identical_documents = 0.875;
    memory.build_s = 120;
    memory.bytes_per_token = 1234.5;

    VariantScore full;
    full.name = "full_finetune";
    full.nll = 3;
    full.gain = -0.5;
    full.ci95 = Interval{-0.625, -0.375};
    full.vs_memory = Interval{-0.375, -0.125};
    full.p = 0.0004;
    full.share = 1;
    full.damage = 0.75;
    full.damage_ci95 = Interval{0.5, 1};
    full.untouched_tokens = full.identical_documents = 0;
    full.seeds = 3;
    full.seed_sd = 0.125;

    VariantScore control;
    control.name = "random_neighbours";
    control.nll = 3.5625;
    control.gain = 0.0625;
    control.ci95 = Interval{-std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
    report_.variants = {frozen, memory, full, control};
    report_.leakage = LeakageReport{
        {412, 340, 1, {{"a.h", "b.h", 0.625}}, 98304, 512, 4, 200}, {120, 340, 0, {}, 40960, 0, 0, 0}, 12, {}};
    report_.leakage->gain_without_repeated = Estimate{.mean = -0.1875, .ci95 = {-0.25, -0.125}};
    GenerationScore greedy{.variant = "frozen",
                           .temperature = 0.0,
                           .prompts = 40,
                           .tokens = 2560,
                           .match = 0.125,
                           .match_vs_frozen = std::nullopt,
                           .prefix = 1.5,
                           .repeated_4grams = 0.25,
                           .distinct = {0.25, 0.5, 0.625}};
    GenerationScore sampled{.variant = "memory+output",
                            .temperature = 0.75,
                            .prompts = 40,
                            .tokens = 2500,
                            .match = 0.25,
                            .match_vs_frozen = Interval{0.0625, 0.1875},
                            .prefix = 3.25,
                            .repeated_4grams = 0.125,
                            .distinct = {0.25, 0.625, 0.75}};
    GenerationScore truth{.variant = "truth",
                          .temperature = std::nullopt,
                          .prompts = 40,
                          .tokens = 2560,
                          .match = std::nullopt,
                          .match_vs_frozen = std::nullopt,
                          .prefix = std::nullopt,
                          .repeated_4grams = 0.0625,
                          .distinct = {0.5, 0.75, 0.875}};
    report_.generation = {greedy, sampled, truth};
    report_.breakdown =
        Breakdown{.kinds = {{"extension", ".hpp", 400, 90112, 3.5, 3.25, -0.25, Interval{-0.3125, -0.1875}, {}},
                            {"extension", ".<b>", 1, 64, 3.0, 3.5, 0.5, {}, {}}},
                  .classes = {{"text", "word or identifier", 412, 65536, 4.0, 3.5, -0.5, Interval{-0.625, -0.375}, {}},
                              {"repetition", "repeated", 412, 49152, 2.5, 2.375, -0.125, Interval{-0.25, -0.0625}, {}}},
                  .positions = {{"position", "1 to 4", 412, 1648, 5.0, 5.0, 0, Interval{-0.0625, 0.0625}, 0.0625},
                                {"position", "5 to 8", 412, 1648, 4.5, 4.25, -0.25, Interval{-0.3125, -0.1875}, 0.5}},
                  .layers = {{0, 0.75, 1.5, 0.625}, {3, 0.5, 0.75, 0.5}},
                  .traced_tokens = 16384};
    TaskScore asked_frozen;
    asked_frozen.name = "frozen";
    asked_frozen.accuracy = 0.25;
    asked_frozen.ci95 = {0.1875, 0.3125};
    TaskScore asked_memory;
    asked_memory.name = "memory";
    asked_memory.accuracy = 0.375;
    asked_memory.ci95 = {0.3125, 0.4375};
    asked_memory.difference = 0.125;
    asked_memory.difference_ci95 = Interval{0.0625, 0.1875};
    asked_memory.p = 0.0004;
    asked_memory.wins = 30;
    asked_memory.losses = 5;
    report_.tasks = {{"choice", "likeliest choice", 200, 1, 0.25, {asked_frozen, asked_memory}}};
    report_.notes = {"12 of 412 test documents are near-duplicates of <reference> documents"};
  }
  EvalReport report_;
};

}  // namespace pointsman
