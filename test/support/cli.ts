import { Writable } from "node:stream";
import { runCli } from "../../src/cli/run.ts";

/** The command line as a person calls it, within this process and without its environment. */
export async function kllama(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const texts = { stdout: "", stderr: "" };
  const sink = (name: keyof typeof texts) =>
    new Writable({
      write(chunk, _encoding, done) {
        texts[name] += String(chunk);
        done();
      },
    });
  const code = await runCli(args, { stdout: sink("stdout"), stderr: sink("stderr"), env: {} });
  return { code, ...texts };
}
