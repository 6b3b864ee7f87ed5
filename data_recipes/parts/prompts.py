"""The words around a question, `{}` in its place: one is drawn for each sample while training.

The published weights know "[vqa] Based on the image, ..." and "[refer] give me the location of {}" in exactly these
words (arXiv:2312.16862 and its public repository); the other wordings are this project's own.
"""

CAPTION = (
    "[caption] Describe the picture briefly.",
    "[caption] Give the picture a short caption.",
    "[caption] In one sentence, what is there to see?",
    "[caption] Sum up this picture in a few words.",
    "[caption] What does the picture show?",
    "[caption] Write one line about this picture.",
    "[caption] Put into words what you see here.",
    "[caption] Say shortly what is going on here.",
    "[caption] What would you write below this photograph?",
    "[caption] Caption this, in a sentence at most.",
    "[caption] Tell somebody who cannot see it what this is.",
    "[caption] A short text for this picture, please.",
    "[caption] What is the subject of this photograph?",
    "[caption] Say in plain words what the photograph has in it.",
    "[caption] Which sentence fits this picture?",
    "[caption] What happens in this picture?",
    "[caption] Name the main things in the picture in one sentence.",
)
REFER = (
    "[refer] {}",
    "[refer] give me the location of {}",
    "[refer] where in the picture is {}?",
    "[refer] show me {}",
    "[refer] put a box around {}",
    "[refer] find {}",
    "[refer] at which place do you see {}?",
)
IDENTIFY = (
    "[identify] {}",
    "[identify] name what is in {}",
    "[identify] what do you see in {}?",
    "[identify] which thing is at {}?",
    "[identify] say what {} holds",
    "[identify] there is something in {}, what is it?",
    "[identify] tell me about the thing in {}",
)
GROUNDING = (
    "[grounding] Say what the picture shows and where each thing is.",
    "[grounding] Describe the picture with a box for every thing.",
    "[grounding] What is there, and at which place?",
    "[grounding] Caption the picture and mark all that you name.",
)
DETECTION = ("[detection] {}",)
VQA = (
    "[vqa] {}",
    "[vqa] Based on the image, respond to this question with a short answer: {}",
)
DETAIL = (
    "Tell me in detail what is in this picture.",
    "Go through everything that you see here.",
    "What is in the picture? Leave nothing out.",
    "Write down all that the picture holds.",
)
