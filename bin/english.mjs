// zod's messages in fifty languages are loaded with it, and nobody here asks for them: 3 MB at rest, and twice that in bursts.
import { registerHooks } from "node:module";

registerHooks({
  resolve(specifier, context, nextResolve) {
    const resolved = nextResolve(specifier, context);
    if (!resolved.url.endsWith("/zod/v4/locales/index.js")) return resolved;
    return { ...resolved, url: "data:text/javascript,export {}" };
  },
});
