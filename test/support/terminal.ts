import { spawn } from "node:child_process";
import { closeSync, constants, openSync } from "node:fs";
import { ReadStream } from "node:tty";
import koffi from "koffi";

/** Runs a program with a terminal of its own (`pts(4)`) for input, output and errors. @returns all that it showed. */
export async function runOnTerminal(
  program: string,
  args: readonly string[],
): Promise<{ code: number | null; shown: string }> {
  const libc = koffi.load(null);
  const mode = constants.O_RDWR | constants.O_NOCTTY;
  const master = openSync("/dev/ptmx", mode);
  if (libc.func("int unlockpt(int fd)")(master) !== 0) throw new Error("unlockpt: the terminal cannot be opened");
  const slave = openSync(String(libc.func("const char *ptsname(int fd)")(master)), mode);
  const screen = new ReadStream(master);
  let shown = "";
  screen.setEncoding("utf8").on("data", (text: string) => {
    shown += text;
  });
  // The kernel says EIO when the last program has closed the terminal, and everything was read by then.
  const closed = new Promise((resolve) => screen.once("error", resolve).once("close", resolve));
  const child = spawn(program, args, { stdio: [slave, slave, slave] });
  closeSync(slave);
  const code = await new Promise<number | null>((resolve, reject) => child.once("exit", resolve).once("error", reject));
  await closed;
  screen.destroy();
  return { code, shown };
}
