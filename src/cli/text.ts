/** Breaks text into lines of at most `width` characters, each beginning with `indent`; words are never cut. */
export function wrap(text: string, width: number, indent: string): string {
  const paragraphs = text.split("\n").map((paragraph) => {
    const lines: string[] = [];
    for (const word of paragraph.split(" ")) {
      const line = lines.at(-1);
      if (line !== undefined && indent.length + line.length + 1 + word.length <= width) {
        lines[lines.length - 1] = `${line} ${word}`;
      } else {
        lines.push(word);
      }
    }
    return lines.map((line) => `${indent}${line}`.trimEnd()).join("\n");
  });
  return paragraphs.join("\n");
}

/** The candidate that a misspelt word most likely means; undefined when none is near. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  const limit = Math.max(1, Math.floor(word.length / 3));
  const ranked = candidates
    .map((candidate) => ({ candidate, distance: editDistance(word, candidate) }))
    .filter(({ candidate, distance }) => distance <= limit || (word.length > 2 && candidate.startsWith(word)))
    .sort((a, b) => a.distance - b.distance);
  return ranked[0]?.candidate;
}

/** Levenshtein distance, one row at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}

/** `1 pod`, `2 pods`. */
export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
