// The page as text: what is in it, and that nothing from a document becomes markup. tests/test_report_page.py looks at
// it in a browser.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "indexer/evaluation/html.h"
#include "indexer/evaluation/report_sections.h"
#include "indexer/evaluation/test_report.h"

namespace pointsman {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kHostile = "</pre><script>alert(1)</script>\"'&\x01\xff\xe2\x80\xae";

size_t Count(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

TEST(EscapeTest, TextCannotBecomeMarkupOrTurnItsDirection) {
  EXPECT_EQ(Escape("a<b>&\"'"), "a&lt;b&gt;&amp;&quot;&#39;");
  EXPECT_EQ(Escape("Gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80\n\t"), "Gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80\n\t");
  // Not UTF-8: a lone lead byte, an overlong form, a surrogate, a cut character; a control; a right-to-left override.
  for (const char* bad : {"\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf0\x9f", "\x01", "\x7f", "\xe2\x80\xae"}) {
    const std::string escaped = Escape(bad);
    EXPECT_THAT(escaped, HasSubstr("\xEF\xBF\xBD"));
    EXPECT_THAT(escaped, Not(HasSubstr(bad)));
  }
}

TEST(SignedTextTest, HasARealMinusAndNoSignForARoundedZero) {
  EXPECT_EQ(SignedText(-0.25, 2), "\u22120.25");
  EXPECT_EQ(SignedText(0.25, 2), "+0.25");
  EXPECT_EQ(SignedText(-0.001, 2), "0.00");
  EXPECT_EQ(SignedText(std::nullopt), "\u2013");
  EXPECT_EQ(IntervalText(Interval{-INFINITY, 1}), "\u2013");
}

TEST(ClippedTest, CutsAtCharactersInTheMiddle) {
  EXPECT_EQ(Clipped("abcdef", 6), "abcdef");
  EXPECT_EQ(Clipped("abcdefg", 5),
            "ab\xE2\x80\xA6"
            "fg");
  EXPECT_EQ(Clipped("\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc", 3), "\xc3\xbc\xE2\x80\xA6\xc3\xbc");
}

class Page : public AdoptedMemory {
 protected:
  Page() {
    Passage passage{.role = PassageRole::kBest, .document = kHostile, .document_gain = -0.5, .document_tokens = 1234};
    passage.tokens = {
        {" std", 2.5f, 0.25f, 0.5f, true}, {kHostile, 1.0f, 1.75f, 1.0f, true}, {"\n", 0.5f, 0.5f, 1.0f, true}};
    passage.explained = {{.token = 0,
                          .changes = {{1, 0.75f, {3, 5}, {0, 9}}},
                          .neighbours_layer = 1,
                          .neighbours = {{kHostile, 17, 0.625f, kHostile}}}};
    report_.passages = {passage};
    report_.provenance = {{"command", "pointsman eval --corpus 'a b'"}, {"corpus", kHostile}};
    report_.settings = {{"seed", "7"}};
  }
  std::string Html() const { return ToHtml(report_, "Memory <of> C++ & more"); }
};

TEST_F(Page, IsOneEscapedPageWithoutExternalResourcesAndScript) {
  const std::string html = Html();
  EXPECT_THAT(html, HasSubstr("<title>Memory &lt;of&gt; C++ &amp; more</title>"));
  EXPECT_THAT(html, HasSubstr("near-duplicates of &lt;reference&gt; documents"));
  EXPECT_THAT(html, HasSubstr("prefers-color-scheme:dark"));
  EXPECT_THAT(html, HasSubstr("default-src 'none'"));
  for (const char* unwanted :
       {"http:", "https:", "src=", "url(", "<script", "<link", "@import", "\x01", "\xff", "\xe2\x80\xae"}) {
    EXPECT_THAT(html, Not(HasSubstr(unwanted)));
  }
  for (const char* element :
       {"svg",  "g",   "table",  "tr",      "td",      "th",  "div",  "ul", "ol", "li", "dl",   "dd",  "pre",
        "span", "bdi", "figure", "section", "article", "nav", "main", "h2", "h3", "h4", "body", "html"}) {
    const std::string name = element;
    EXPECT_EQ(Count(html, "<" + name + ">") + Count(html, "<" + name + " "), Count(html, "</" + name + ">")) << name;
  }
  EXPECT_THAT(html, Not(testing::ContainsRegex("[^a-z]nan[^a-z]")));
  EXPECT_THAT(html, Not(HasSubstr("\"inf")));
}

TEST_F(Page, TopSaysTheVerdictWithTheFiguresThatCarryIt) {
  const std::string top = VerdictHtml(report_);
  EXPECT_THAT(top, HasSubstr("Verdict: <span class=\"word\">adopt</span>"));
  EXPECT_THAT(top, HasSubstr("<span class=\"figure\">\u22120.2500</span>"));
  EXPECT_THAT(top, HasSubstr("95\u00A0% interval \u22120.3000 to \u22120.2000"));
  EXPECT_THAT(top, HasSubstr("asked for: below \u22120.010"));
  EXPECT_THAT(top, HasSubstr("perplexity 33.1 to 25.8"));
  EXPECT_THAT(top, HasSubstr("<span class=\"figure\">+0.0003</span>"));
  EXPECT_THAT(top, HasSubstr("allowed: below +0.002"));
  EXPECT_THAT(top, HasSubstr("<span class=\"figure\">96.9\u00A0%</span>"));
}

TEST_F(Page, PlotsHaveAMarkForEachFigureSortedAndTheRulesLines) {
  const std::string html = VariantsHtml(report_);
  // Gain: full_finetune and memory (the control has no finite interval, but a mean); damage: memory and full_finetune.
  EXPECT_EQ(Count(html, "class=\"mark\""), 5u);
  EXPECT_EQ(Count(html, "<path d="), 2u);  // the memory's diamonds
  EXPECT_EQ(Count(html, "class=\"hollow\""), 1u);
  EXPECT_EQ(Count(html, "class=\"bound\""), 2u);
  EXPECT_THAT(html,
              HasSubstr("<desc id=\"plot-gain-desc\">full_finetune \u22120.500 (\u22120.625 to \u22120.375); memory "
                        "\u22120.250 (\u22120.300 to \u22120.200); random_neighbours +0.062</desc>"));
  report_.variants.resize(1);  // frozen alone: axes without marks, and no division by an empty range
  EXPECT_EQ(Count(VariantsHtml(report_), "class=\"mark\""), 0u);
  EXPECT_THAT(VariantsHtml(report_), Not(testing::ContainsRegex("[^a-z]nan[^a-z]")));
}

TEST_F(Page, BreakdownNamesEveryGroupAndLayer) {
  const std::string html = BreakdownHtml(report_);
  EXPECT_THAT(html, HasSubstr("<th scope=\"row\">.hpp</th><td>400</td><td>90,112</td>"));
  EXPECT_THAT(html, HasSubstr("<th scope=\"row\">.&lt;b&gt;</th>"));
  EXPECT_THAT(html, HasSubstr("token 5 to 8"));
  EXPECT_THAT(html, HasSubstr("<th scope=\"row\">layer 3</th><td>50.0\u00A0%</td><td>0.75</td><td>0.50</td>"));
  EXPECT_THAT(html, HasSubstr("Measured on 16,384 tokens"));
  report_.breakdown.reset();
  EXPECT_EQ(BreakdownHtml(report_), "");
  EXPECT_THAT(Html(), Not(HasSubstr("href=\"#where\"")));
}

TEST_F(Page, TokensAreTintedByGainAndExplained) {
  const std::string html = PassagesHtml(report_);
  EXPECT_THAT(html, HasSubstr("<span class=\"b4\" title=\"loss 2.50 to 0.25 (\u22122.25), gate 0.50\"> std</span>"));
  EXPECT_THAT(html, HasSubstr("<span class=\"w2\" title=\"loss 1.00 to 1.75 (+0.75), gate 1.00\">&lt;/pre&gt;"));
  EXPECT_THAT(html, HasSubstr("<span title=\"loss 0.50 to 0.50 (0.00), gate 1.00\"><span class=\"break\""));
  EXPECT_THAT(html, HasSubstr("layer 1, confidence 0.75: experts 3, 5 "));
  EXPECT_THAT(html, HasSubstr("similarity 0.62, <bdi>&lt;/pre&gt;"));
}

TEST_F(Page, TasksGeneratedTextAndLeakageHaveTheirFigures) {
  const std::string html = Html();
  EXPECT_THAT(html, HasSubstr("likeliest choice, 200 items; a guess is right in 25.0"));
  EXPECT_THAT(html, HasSubstr("40 test documents continued from the first half of a window"));
  EXPECT_THAT(html, HasSubstr("0.250 0.625 0.750"));
  EXPECT_THAT(html, HasSubstr("1 near-duplicate pairs; 512 of 98,304 tokens, in 4 documents"));
  EXPECT_THAT(html, HasSubstr("Most alike: <bdi>a.h</bdi> and <bdi>b.h</bdi> (0.62)"));
}

TEST_F(Page, WithoutPassagesItSaysWhy) {
  report_.passages.clear();
  EXPECT_EQ(PassagesHtml(report_), "");
  report_.passages_absent = "the memory was built with --no-text";
  EXPECT_EQ(PassagesHtml(report_), "<p>No text is shown: the memory was built with --no-text.</p>\n");
}

TEST_F(Page, StaysSmallWhateverIsInIt) {
  const std::string long_text(200'000, '<');
  for (auto& token : report_.passages[0].tokens) token.text = std::string(120, '<');
  report_.passages[0].tokens.resize(160, report_.passages[0].tokens[0]);
  report_.passages[0].document = long_text;
  report_.passages[0].explained[0].neighbours.assign(3, {long_text, 1, 0.5f, long_text});
  report_.passages.resize(4, report_.passages[0]);
  report_.provenance.assign(20, {"corpus", long_text});
  report_.breakdown->kinds.assign(36, {"folder", long_text, 1, 1, 0, 0, 0, {}, {}});
  EXPECT_LT(Html().size(), 1'000'000u);
}

TEST_F(AdoptedMemory, NextStepsFollowTheVerdict) {
  EXPECT_THAT(NextSteps(report_),
              ElementsAre(HasSubstr("Switch the memory on"), HasSubstr("Run pointsman eval again")));
  report_.breakdown->kinds[1].ci95 = Interval{0.25, 0.75};
  EXPECT_THAT(NextSteps(report_).back(), HasSubstr("It makes extension .<b> worse (+0.5000"));
  report_.breakdown.reset();
  report_.stale = true;
  report_.dominated_by = "knn_lm";
  EXPECT_THAT(NextSteps(report_),
              ElementsAre(HasSubstr("written after it was scored"), HasSubstr("Look at knn_lm first"),
                          HasSubstr("Switch"), HasSubstr("again")));
  report_.stale = false;
  report_.verdict = Decision::kReject;
  EXPECT_THAT(NextSteps(report_), ElementsAre(HasSubstr("Leave the memory off"), HasSubstr("pointsman probe")));
  report_.variants[1].damage_ci95 = Interval{0.003, 0.004};
  EXPECT_THAT(NextSteps(report_), ElementsAre(HasSubstr("off"), HasSubstr("--off-domain")));
  report_.variants.erase(report_.variants.begin() + 1);
  EXPECT_THAT(NextSteps(report_), ElementsAre(HasSubstr("Build a memory")));
}

TEST_F(AdoptedMemory, AnInconclusiveVerdictSaysWhatIsMissing) {
  report_.verdict = Decision::kInconclusive;
  report_.documents = 12;
  EXPECT_THAT(NextSteps(report_), ElementsAre(HasSubstr("at least 20"), HasSubstr("leave the memory off")));
  report_.documents = 412;
  report_.variants[1].ci95 = Interval{-0.3, 0.1};
  EXPECT_THAT(NextSteps(report_), ElementsAre(HasSubstr("interval of the gain"), HasSubstr("off")));
  report_.variants[1].ci95 = Interval{-0.3, -0.2};
  report_.variants[1].damage_ci95 = Interval{-0.001, 0.003};
  EXPECT_THAT(NextSteps(report_), ElementsAre(HasSubstr("interval of the damage"), HasSubstr("off")));
  report_.variants[1].damage_ci95.reset();
  EXPECT_THAT(NextSteps(report_), ElementsAre(HasSubstr("without it damage is unknown"), HasSubstr("off")));
}

}  // namespace
}  // namespace pointsman
