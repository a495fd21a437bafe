import { execFile } from "node:child_process";
import process from "node:process";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const program = `
  import { openSync } from "node:fs";
  import { openHost } from "./src/dra/driver/host/host.ts";
  const host = openHost("/");
  const answers = () => Promise.all([host.names("/proc"), host.text("/proc/stat")].map((answer) => answer.then(
    (found) => found === undefined || found.length === 0 ? "nothing" : "something",
    (error) => error.code,
  )));
  const before = await answers();
  const none = await Promise.all([host.names("/proc/none"), host.text("/proc/none")]);
  try { for (;;) openSync("/dev/null"); } catch {}
  console.log(JSON.stringify({ before, none, after: await answers() }));
`;

test("where the process may open no more files, nothing is taken to be absent: boards were lost, and their pods evicted", async () => {
  const limited = ["-c", 'ulimit -n 100 && exec "$@"', "sh", process.execPath, "--input-type=module", "-e", program];
  const { stdout } = await promisify(execFile)("sh", limited);
  expect(JSON.parse(stdout)).toEqual({
    before: ["something", "something"],
    none: [[], null],
    after: ["EMFILE", "EMFILE"],
  });
});
