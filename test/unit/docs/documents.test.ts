import { globSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const documents = globSync(
  ["*.md", "{bench,deploy,docs,tools,test}/**/*.md", "{crds,deploy,examples,fleets}/**/*.yaml"],
  {
    cwd: root,
    exclude: ["**/node_modules/**"],
  },
);

test("there are documents to look at", () => {
  expect(documents).toContain("README.md");
  expect(documents).toContain("deploy/policies.yaml");
});

test.each(documents)("%s carries no marks of an unfinished merge", (path) => {
  expect(readFileSync(`${root}/${path}`, "utf8")).not.toMatch(/^(<{7}|={7}|>{7})( |$)/m);
});
