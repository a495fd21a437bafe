import process from "node:process";

/** npm passes Ctrl-C on to a process that the terminal has told already: what comes at once is one and the same. */
const sameSignalMs = 500;

/** `first` is called at the first SIGINT, SIGTERM or SIGHUP, `again` at each that somebody sends later. */
export function onStopSignals(first: (signal: NodeJS.Signals) => void, again: () => void): void {
  let firstMs: number | undefined;
  const handle = (signal: NodeJS.Signals): void => {
    const nowMs = performance.now();
    if (firstMs === undefined) {
      firstMs = nowMs;
      first(signal);
    } else if (nowMs - firstMs > sameSignalMs) {
      again();
    }
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, handle);
}
