import process from "node:process";
import type { KubeClient } from "../kube/client.ts";

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

/**
 * Tells of each write that came to pass, as METHOD/RESOURCE or METHOD/RESOURCE/SUBRESOURCE (`PATCH/pods/status`): some
 * effects are two of them.
 */
export function tellingWrites(client: KubeClient, written: (write: string) => void): KubeClient {
  return {
    ...client,
    async request(method, path, options) {
      const answer = await client.request<never>(method, path, options);
      if (method !== "GET" && options?.query?.["dryRun"] === undefined) written(`${method}/${kindOf(path)}`);
      return answer;
    },
  };
}

function kindOf(path: string): string {
  const parts = path.split("/").slice(path.startsWith("/apis/") ? 4 : 3);
  const [resource, , subresource] = parts[0] === "namespaces" && parts.length > 2 ? parts.slice(2) : parts;
  return subresource === undefined ? `${resource}` : `${resource}/${subresource}`;
}
