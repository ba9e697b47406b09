"use strict";
// Stage 1, bigram: the next token depends on the current token and nothing else.

// A V x V table: row i holds the logits of the token after token i.
function Bigram(model, tokens_T) {
  return Embed(model.next_token, tokens_T);
}
