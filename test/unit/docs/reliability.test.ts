import { globSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const text = readFileSync(`${root}/docs/reliability.md`, "utf8");
const scripts = Object.keys(JSON.parse(readFileSync(`${root}/package.json`, "utf8")).scripts);

const section = /\| Fault \| Count \| Result \| Command \|\n(\|.*?)\n\n/s.exec(text)?.[1] ?? "";
const rows = section.split("\n").slice(1);
const commands = rows.map((row) => [...(row.split("|").at(-2) ?? "").matchAll(/`([^`]+)`/g)].map(([, code]) => code!));

describe("a row of what was broken", () => {
  test("there are rows", () => expect(rows.length).toBeGreaterThan(30));

  test.each(rows.map((row, index) => ({ row, found: commands[index] ?? [] })))("$row", ({ found }) => {
    expect(found.length).toBeGreaterThan(0);
    for (const command of found) expect(problemOf(command)).toBeUndefined();
  });
});

/** @returns why a command runs no test */
function problemOf(command: string): string | undefined {
  const script = /^npm run (\S+)/.exec(command)?.[1];
  if (script !== undefined) return scripts.includes(script) ? undefined : `there is no script ${script}`;
  const [, project, filter, title] =
    /^npx vitest run --project (unit|cluster) ([\w./-]+)(?: -t "([^"]+)")?$/.exec(command) ?? [];
  if (project === undefined || filter === undefined) return `not understood: ${command}`;
  const folders = project === "cluster" ? ["test/cluster"] : ["test/unit", "test/property"];
  const files = globSync(
    folders.map((folder) => `${folder}/**/*.test.ts`),
    { cwd: root },
  ).filter((file) => file.includes(filter));
  const found = files.filter((file) => title === undefined || readFileSync(`${root}/${file}`, "utf8").includes(title));
  return found.length > 0 ? undefined : `no test of ${files.join(", ") || filter} has ${title ?? "a name"}`;
}
