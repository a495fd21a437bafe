import { readFile } from "node:fs/promises";

const shownLines = 15;

/** Says how a process ended, with the end of its log. */
export async function endText(
  name: string,
  { code, signal }: { code: number | null; signal: NodeJS.Signals | null },
  logPath: string,
): Promise<string> {
  const log = await readFile(logPath, "utf8").catch(() => "");
  const lines = log.trimEnd().split("\n").slice(-shownLines);
  return `${name} ended with ${signal ?? `code ${code}`}. The end of its log:\n${lines.map((line) => `  ${line}`).join("\n")}`;
}
