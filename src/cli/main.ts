import process from "node:process";
import { runCli } from "./run.ts";

const outputs = [process.stdout, process.stderr];
// Whoever reads our output may leave early, as `head` does: that ends the text, not the work and its clean-up.
for (const stream of outputs) stream.on("error", () => undefined);
const code = await runCli(process.argv.slice(2), process);
// Services keep connections and watches open, so the end of a command is said, not waited for. What was written to a
// pipe must have left first.
await Promise.all(outputs.map((stream) => new Promise<void>((resolve) => stream.write("", () => resolve()))));
process.exit(code);
