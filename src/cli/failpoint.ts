import process from "node:process";

/**
 * `KLLAMA_FAILPOINT=EFFECT:N` kills this process with SIGKILL right after its Nth effect of that name (`*`: of any
 * name): how tests prove recovery. undefined: nothing of the kind is asked for.
 */
export function failpoint(text: string | undefined): ((effect: string) => void) | undefined {
  const match = /^([A-Za-z/*-]+):(\d+)$/.exec(text ?? "");
  if (match === null) return undefined;
  let left = Number(match[2]);
  return (effect) => {
    if (match[1] !== "*" && match[1] !== effect) return;
    left -= 1;
    if (left === 0) process.kill(process.pid, "SIGKILL");
  };
}
