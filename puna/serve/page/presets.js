// What LLaMA is known for as texts to go on with: a base model follows the pattern it is shown.

const line = { temperature: 0, max_tokens: 60, stop: "\\n" };

/** {name, text, sampling}: the text to begin with, and what of the sampling suits it. */
export const presets = [
  {
    name: "Story",
    text: "Once upon a time, high in the mountains, there was a small llama who",
    sampling: { temperature: 0.8, max_tokens: 160, stop: "" },
  },
  {
    name: "Translate",
    text: `English: The train leaves at eight.
French: Le train part à huit heures.

English: Where is the library?
French: Où est la bibliothèque ?

English: It rained all night and the road is wet.
French:`,
    sampling: line,
  },
  {
    name: "Summarise",
    text: "Text: The new bridge opened on Monday after four years of work. It is 300 metres long, "
      + "cost less than planned, and shortens the way to the harbour by twenty minutes.\n"
      + "In one sentence: A 300-metre bridge opened on Monday, cheaper than planned, and brings "
      + "the harbour twenty minutes closer.\n\n"
      + "Text: Bees find their way back by the sun, by landmarks and by smell. On cloudy days they "
      + "use the polarised light of the sky, which they can see and we cannot.\n"
      + "In one sentence:",
    sampling: { ...line, temperature: 0.3, max_tokens: 80 },
  },
  {
    name: "Sentiment",
    text: `Review: The soup was cold and nobody came to ask.
Sentiment: negative

Review: We stayed until they closed, it was that good.
Sentiment: positive

Review: The room is small, but the view makes up for everything.
Sentiment:`,
    sampling: { ...line, max_tokens: 4 },
  },
  {
    name: "Questions",
    text: `Answer these questions:

Q: Who wrote "The Old Man and the Sea"?
A: Ernest Hemingway

Q: What is the capital of Australia?
A: Canberra

Q: Which planet is closest to the sun?
A:`,
    sampling: { ...line, max_tokens: 24 },
  },
  {
    name: "Maths",
    text: `Q: A box holds 6 eggs. How many eggs are in 4 boxes?
A: Each box holds 6 eggs, and there are 4 boxes, so 6 x 4 = 24. The answer is 24.

Q: Ana had 15 pears and gave away 7. How many are left?
A: She had 15 and gave away 7, so 15 - 7 = 8. The answer is 8.

Q: A train goes 60 km in an hour. How far does it go in 3 hours?
A:`,
    sampling: line,
  },
  {
    name: "Code",
    text: `def is_prime(number: int) -> bool:
    """Whether number is a prime."""
`,
    sampling: { temperature: 0.2, max_tokens: 120, stop: "\\ndef " },
  },
];
