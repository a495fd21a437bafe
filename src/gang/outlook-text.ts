/** Events take no more, and all places say the same. */
const maxLength = 1_024;
const start = "it would fit ";

/** What would make room, as statuses, events and commands say it: a sentence for each way. */
export function outlookSentences(counterfactuals: readonly string[]): string[] {
  return counterfactuals.map((text) => `${start}${text}`);
}

/** A refusal and what would make room: as many whole sentences as an event takes. */
export function withOutlook(message: string, counterfactuals: readonly string[]): string {
  let text = message;
  for (const sentence of outlookSentences(counterfactuals)) {
    const longer = `${text}; ${sentence}`;
    if (longer.length > maxLength) break;
    text = longer;
  }
  return text;
}

/** Is the text this refusal, alone or with what would make room? */
export function isRefusal(text: string, message: string): boolean {
  return text === message || text.startsWith(`${message}; ${start}`);
}
